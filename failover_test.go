package pgpooled_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/cutmatrix"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// hosts is a DSN of several servers in both of its forms.
var hosts = map[string]func(name string, servers ...*pgtest.Server) string{
	"key=value": func(name string, servers ...*pgtest.Server) string {
		return servers[0].DSN(append(pgtest.Hosts(servers...), "application_name", name, "target_session_attrs", "read-write")...)
	},
	"URL": func(name string, servers ...*pgtest.Server) string {
		list := ""
		for _, s := range servers {
			list += "," + s.Addr()
		}
		return fmt.Sprintf("postgres://postgres@%s/postgres?sslmode=disable&application_name=%s&target_session_attrs=read-write", list[1:], name)
	},
}

// Twenty callers on ten connections read and write while the primary is killed
// and its standby promoted; the killed one becomes the new standby, and again.
func TestAFailoverIsFollowedAndNothingConfirmedIsLostOrDoubled(t *testing.T) {
	t.Parallel()
	rounds := 2
	if long {
		rounds = 10
	}
	for _, sync := range []bool{false, true} {
		t.Run(map[bool]string{false: "asynchronous", true: "synchronous"}[sync], func(t *testing.T) {
			t.Parallel()
			primary, standby := pgtest.PairT(t, pgtest.Options{})
			for round := range rounds {
				form := []string{"key=value", "URL"}[round%2]
				if round > 0 {
					if err := standby.Follow(testContext(t), primary); err != nil {
						t.Fatal(err)
					}
				}
				if sync {
					if err := primary.Synchronous(testContext(t)); err != nil {
						t.Fatal(err)
					}
				}
				failOver(t, primary, standby, hosts[form], sync)
				primary, standby = standby, primary
			}
		})
	}
}

func failOver(t *testing.T, primary, standby *pgtest.Server, dsn func(string, ...*pgtest.Server) string, sync bool) {
	t.Helper()
	name := app()
	db, err := pgpooled.Open(dsn(name, primary, standby), quiet)
	if err != nil {
		t.Fatal(err)
	}
	r, err := cutmatrix.Failover(testContext(t), primary, standby, 0, db, name, says)
	if err != nil {
		t.Fatal(err)
	}
	checkFailover(t, r, sync)
}

// checkFailover: a failover is over long before pool_timeout, so that no read
// and no write that was not sent may fail.
func checkFailover(t *testing.T, r cutmatrix.FailoverResult, sync bool) {
	t.Helper()
	if sync && r.Unreplicated > 0 {
		t.Errorf("%d writes were confirmed that no standby had", r.Unreplicated)
	}
	if r.ReadsFailed+r.ReadsShort+r.Lost+r.Doubled+r.Lied+r.FailedDone+r.WritesFailed > 0 {
		for _, f := range r.Faults {
			t.Error(f)
		}
		t.Errorf("%+v", r)
	}
	if r.Unknown > cutmatrix.Connections {
		t.Errorf("%d unknown outcomes, more than one per connection (%d)", r.Unknown, cutmatrix.Connections)
	}
	t.Logf("%d reads (%d broke off half way), %d writes (%d unknown, %d confirmed and not replicated), longest gap %s, the database %s",
		r.Reads, r.ReadsPartial, r.Writes, r.Unknown, r.Unreplicated, r.Gap.Round(1e6), r.Database.Round(1e6))
}

// A pool of a replica goes on with the primary when its replica is lost. Its
// sessions stay there until they end; each new one prefers the replica again, so
// that conn_max_lifetime brings the pool back.
func TestAReplicaPoolSurvivesItsReplicaAndComesBackToIt(t *testing.T) {
	t.Parallel()
	primary, standby := pgtest.PairT(t, pgtest.Options{})
	dsn := func(kv ...string) string {
		return primary.DSN(append(append(pgtest.Hosts(primary, standby), "application_name", app(), "target_session_attrs", "prefer-standby"), kv...)...)
	}
	db, settled := openWith(t, dsn("conn_max_lifetime", "200ms")), openWith(t, dsn())
	const where = "select inet_server_port()"
	for range 20 {
		if port := queryInt(t, db, where); port != standby.Port() {
			t.Fatal("not on the replica")
		}
	}
	queryInt(t, settled, where)
	if err := standby.Down("kill"); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if port := queryInt(t, db, where) + queryInt(t, settled, where); port != 2*primary.Port() {
			t.Fatal("not on the primary")
		}
	}
	if err := standby.Up(testContext(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pool came back to its replica", func() bool { return queryInt(t, db, where) == standby.Port() })
	if port := queryInt(t, settled, where); port != primary.Port() {
		t.Error("a session moved that had not ended")
	}
	if c, ok := pgpooled.ConnectorOf(settled); ok {
		c.Refresh()
	}
	if port := queryInt(t, settled, where); port != standby.Port() {
		t.Error("Refresh did not bring the pool back")
	}
}

// A pooler greets with what its server once was, and lib/pq believes it.
func TestAStandbyThatIsAnnouncedAsAPrimaryIsNotTakenForOne(t *testing.T) {
	t.Parallel()
	primary, standby, _ := newPair(t)
	for _, attrs := range []string{"read-write", "primary"} {
		d := openDemotable(t, primary, standby, "target_session_attrs", attrs)
		mustExec(t, d, "select 1")
		d.demote()
		kv := []string{"application_name", app(), "target_session_attrs", attrs, "pool_timeout", "300ms"}
		both := openWith(t, primary.DSN(append(kv, "host", "127.0.0.1,127.0.0.1", "port", fmt.Sprintf("%d,%d", d.pooler.port(), primary.Port()))...))
		if port := queryInt(t, both, "select inet_server_port()"); port != primary.Port() {
			t.Errorf("%s: opened on the standby", attrs)
		}
		only := openWith(t, primary.DSN(append(kv, "port", fmt.Sprint(d.pooler.port()))...))
		if err := only.Ping(); !errors.Is(err, pgpooled.ErrPoolTimeout) || !strings.Contains(err.Error(), "hot standby") {
			t.Errorf("%s: %v", attrs, err)
		}
	}
}
