package cutmatrix

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/pgpooled/pgpooled/internal/faultnet"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// SilenceLimit is how long after its context's end a call may return. It is far
// above what any driver documents.
const SilenceLimit = 5 * time.Second

// SilenceResult says which kinds of call kept their deadline.
type SilenceResult struct {
	Kinds   int
	Late    []string      // did not return within SilenceLimit of the context's end
	Slowest time.Duration // of the others, after the context's end
	Wrong   []string      // returned nil
}

// Silence makes each kind of call on a network that falls silent, with a
// context that ends after a second.
func Silence(ctx context.Context, s *pgtest.Server, d Driver, tls bool) (SilenceResult, error) {
	var (
		mu  sync.Mutex // guards r and bad
		r   SilenceResult
		bad error
		wg  sync.WaitGroup
	)
	for _, kind := range Kinds() {
		if kind.Disguised || kind.Copy && d.NoCopy {
			continue
		}
		r.Kinds++
		wg.Go(func() {
			took, err, failed := silence(ctx, s, d, kind, tls)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case failed != nil:
				bad = fmt.Errorf("%s: %w", kind.Name, failed)
			case took > SilenceLimit:
				r.Late = append(r.Late, kind.Name)
			case err == nil:
				r.Wrong = append(r.Wrong, kind.Name)
			default:
				r.Slowest = max(r.Slowest, took)
			}
		})
	}
	wg.Wait()
	return r, bad
}

// silence returns how long after its context's end the call returned, and its
// error.
func silence(ctx context.Context, s *pgtest.Server, d Driver, kind Kind, tls bool) (took time.Duration, told, failed error) {
	proxy, err := faultnet.New(s.Addr())
	if err != nil {
		return 0, nil, err
	}
	db, err := d.Open(s, 1, Through(proxy, App(), tls)...)
	if err != nil {
		_ = proxy.Close()
		return 0, nil, err
	}
	table := fmt.Sprintf("silence_%d", apps.Add(1))
	if _, err = s.Admin().ExecContext(ctx, prepareTable(table)); err == nil {
		err = db.PingContext(ctx)
	}
	if err != nil {
		_ = proxy.Close()
		return 0, nil, err
	}
	proxy.Freeze()
	ended, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { _, err := kind.Do(ended, db, table, firstID); done <- err }()
	<-ended.Done()
	from := time.Now()
	timer := time.NewTimer(SilenceLimit)
	defer timer.Stop()
	select {
	case told = <-done:
		took = time.Since(from)
	case <-timer.C:
		took = SilenceLimit + 1
	}
	_ = proxy.Close() // frees what hangs
	_ = db.Close()
	return took, told, nil
}
