package pgpooled

import (
	"context"
	"testing"

	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// A session that was let in and never answered is a failed attempt, and nothing
// that was opened has been closed.
func TestASessionThatNeverAnsweredIsNotCountedAsClosed(t *testing.T) {
	t.Parallel()
	db, p, proxy := behind(t, 1, "sslmode", "disable", "retry_mode", "safe")
	open, cut := p.open, 2
	p.open = func(ctx context.Context) (*session, error) {
		s, err := open(ctx)
		if err == nil && cut > 0 {
			cut--
			s.wire.hangUp()
		}
		return s, err
	}
	proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
	if _, err := db.ExecContext(t.Context(), "create table t ()"); err == nil {
		t.Fatal("the connection was not lost")
	}
	if _, err := db.ExecContext(t.Context(), "select 1"); err != nil {
		t.Fatal(err)
	}
	s := p.stats()
	if s.Opens != 2 || s.OpenErrors != 2 || s.OpenRetries != 2 || s.ClosedBroken != 1 {
		t.Errorf("%d opened, %d attempts failed, %d went on, %d closed as broken: want 2, 2, 2, 1", s.Opens, s.OpenErrors, s.OpenRetries, s.ClosedBroken)
	}
	if s.Opens-s.ClosedBroken != int64(s.InUse+s.Idle) {
		t.Errorf("%d opened, %d closed, and %d are held", s.Opens, s.ClosedBroken, s.InUse+s.Idle)
	}
}
