package pgpooled_test

import (
	"database/sql"
	"errors"
	"testing"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// A pinned connection's read is lost, and the sessions that could read it again
// are lost as well, at any of the last bytes that they send. The calls that follow
// are answered, or say that the connection is lost.
func TestAConnOutlivesTheLossOfEachRepetition(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cut, refused, step int // so many sessions are cut, and then so many dials
		params             []string
	}{
		"each":                   {cut: 3, step: 1},
		"and then nobody is let": {cut: 1, refused: 1000, step: 7, params: []string{"pool_timeout", "300ms"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, proxy := through(t, server, c.params...)
			read := func(conn *sql.Conn) error {
				var n int
				return conn.QueryRowContext(testContext(t), "select 1").Scan(&n)
			}
			sent, failed := 0, 0
			for before := 0; before < 120; before += c.step {
				eventually(t, "the server is back", func() bool { return db.Ping() == nil })
				conn, err := db.Conn(testContext(t))
				if err != nil {
					t.Fatal(err)
				}
				sofar, dials := proxy.Bytes(faultnet.ToServer), proxy.Dials()
				if before > 0 {
					proxy.SetScript(func(k int) faultnet.Script {
						switch k -= dials; {
						case k < c.cut:
							return faultnet.Script{{Dir: faultnet.ToServer, After: sent - before, Do: faultnet.CutBoth}}
						case k < c.cut+c.refused:
							return faultnet.Script{{Dir: faultnet.ToServer, Do: faultnet.CutBoth}}
						}
						return nil
					})
				}
				proxy.Arm(faultnet.ToClient, 0, faultnet.CutClient)
				err = read(conn)
				proxy.Disarm()
				proxy.SetScript(nil)
				switch {
				case before == 0 && err != nil:
					t.Fatal(err)
				case before == 0: // nothing else was cut: so much is sent in all
					sent = proxy.Bytes(faultnet.ToServer) - sofar
				case err != nil:
					failed++
				}
				if c.refused > 0 {
					eventually(t, "the connection has a session", func() bool { return read(conn) == nil })
				}
				for range 3 {
					var lost *pgpooled.ConnLostError
					if err := read(conn); err != nil && !errors.As(err, &lost) && !errors.Is(err, sql.ErrConnDone) {
						t.Errorf("%d bytes before the end: %T %v", before, err, err)
					}
				}
				if err := conn.Close(); err != nil && !errors.Is(err, sql.ErrConnDone) {
					t.Error(err)
				}
			}
			// A cut in BEGIN is not one of the three repetitions of the read.
			if failed == 0 || failed > 50 {
				t.Errorf("%d failed", failed)
			}
		})
	}
}
