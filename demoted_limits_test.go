package pgpooled_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// A host that lets clients in and then does not answer, as a pooler whose server
// is gone, is passed over like one that does not let them in.
func TestAHostThatDoesNotAnswerWhetherItIsAPrimaryIsPassedOver(t *testing.T) {
	t.Parallel()
	proxy := newProxy(t, server.Addr())
	plain := openWith(t, server.DSN("host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "sslmode", "disable", "application_name", app()))
	must(t, plain.Ping())
	sent, _ := bytesOf(proxy) // and not all of the question after it
	must(t, plain.Close())
	for what, do := range map[string]faultnet.Action{"silent": faultnet.Stall, "hangs up": faultnet.CutBoth} {
		for _, hosts := range []string{"%[1]d,%[2]d", "%[1]d,%[1]d,%[2]d", "%[2]d,%[1]d"} {
			proxy.SetScript(func(int) faultnet.Script {
				return faultnet.Script{{Dir: faultnet.ToServer, After: sent, Do: do}}
			})
			name := app()
			db := openWith(t, server.DSN("host", strings.Repeat(","+proxy.Host(), strings.Count(hosts, "d"))[1:], "port", fmt.Sprintf(hosts, proxy.Port(), server.Port()), "sslmode", "disable",
				"target_session_attrs", "read-write", "connect_timeout", "4s", "application_name", name))
			if err := db.Ping(); err != nil || stats(t, db).OpenErrors != 0 {
				t.Errorf("%s, %s: %v, %+v", what, hosts, err, stats(t, db))
			}
			// Nor is there a session for each time that the others were tried.
			proxy.SetScript(nil)
			proxy.CutAll(true)
			must(t, server.AwaitSessions(testContext(t), name, 1))
			must(t, db.Close())
		}
	}
}

// All hosts let clients in, and none answers: the error is the network's, within
// connect_timeout.
func TestNoHostAnswersWhetherItIsAPrimary(t *testing.T) {
	t.Parallel()
	proxy := newProxy(t, server.Addr())
	plain := openWith(t, server.DSN("host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "sslmode", "disable", "application_name", app()))
	must(t, plain.Ping())
	sent, _ := bytesOf(proxy)
	must(t, plain.Close())
	proxy.SetScript(func(int) faultnet.Script {
		return faultnet.Script{{Dir: faultnet.ToServer, After: sent, Do: faultnet.Stall}}
	})
	name := app()
	db := openWith(t, server.DSN("host", proxy.Host()+","+proxy.Host(), "port", fmt.Sprintf("%[1]d,%[1]d", proxy.Port()), "sslmode", "disable",
		"target_session_attrs", "read-write", "connect_timeout", "1s", "pool_timeout", "3s", "application_name", name))
	if err := db.Ping(); !errors.Is(err, pgpooled.ErrPoolTimeout) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	must(t, db.Close())
	proxy.SetScript(nil)
	proxy.CutAll(true)
	must(t, server.AwaitSessions(testContext(t), name, 0))
}

// A session is asked whether its server was demoted while its lease ends, when the
// call may have no time left but the grace.
func TestAskingADemotedServerTakesNoLongerThanTheGrace(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	db, proxy := through(t, server, "sslmode", "disable", "max_open_conns", "1", "cancel_grace", "10ms", "target_session_attrs", "read-write")
	var took time.Duration
	for range 5 { // once without an interruption by others is enough
		c := pinned(t, db)
		mustExec(t, c, "set default_transaction_read_only = on")
		ctx, cancel := context.WithTimeout(testContext(t), time.Second)
		_, err := c.ExecContext(ctx, "insert into "+table+" values (2)")
		cancel()
		refused(t, "insert", err)
		proxy.Freeze()
		start := time.Now()
		must(t, c.Close())
		took = time.Since(start)
		proxy.Thaw()
		if took < 900*time.Millisecond {
			return
		}
	}
	t.Errorf("giving the connection back took %s", took)
}
