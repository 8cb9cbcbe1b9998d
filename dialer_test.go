package pgpooled

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
)

// silentHost accepts connections, or with a context that never ends keeps the
// dial waiting.
type silentHost struct {
	waits   bool
	dialled chan struct{}
}

func (h silentHost) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	close(h.dialled)
	if h.waits {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	here, _ := net.Pipe()
	return here, nil
}

func TestCancelRequestsEndWithTheirSession(t *testing.T) {
	t.Parallel()
	for name, waits := range map[string]bool{"while it is dialled": true, "while it is read from": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := silentHost{waits: waits, dialled: make(chan struct{})}
			s := &session{}
			s.intr = &interceptor{s: s, grace: time.Hour}
			d := &dialer{o: &opener{cfg: &Config{}, opts: options{dialer: host}}, s: s, opened: true}
			done := make(chan error, 1)
			connected := make(chan struct{})
			go func() {
				c, err := d.DialContext(t.Context(), "tcp", "host:5432")
				if err == nil {
					close(connected)
					_, err = c.Read(make([]byte, 1))
					_ = c.Close()
				}
				done <- err
			}()
			<-host.dialled
			if !waits {
				<-connected
			}
			d.close()
			select {
			case err := <-done:
				if err == nil {
					t.Error("no error")
				}
			case <-time.After(20 * time.Second):
				t.Fatal("hangs")
			}
			if _, err := d.DialContext(t.Context(), "tcp", "host:5432"); !errors.Is(err, errSessionClosed) {
				t.Errorf("after the session: %v", err)
			}
			if len(d.cancel) != 0 {
				t.Errorf("%d are remembered", len(d.cancel))
			}
		})
	}
}
