package main

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pgpooled/pgpooled/pgpooledtest"
)

// Something happens while the server is inside COMMIT, where a constraint of the
// test's own waits for a lock.
func TestATransferIsBookedOnceWhateverHappensDuringItsCommit(t *testing.T) {
	t.Parallel()
	for name, happens := range map[string]func(*testing.T, *pgpooledtest.Server, *pgpooledtest.Proxy){
		"its answer is lost": func(_ *testing.T, _ *pgpooledtest.Server, network *pgpooledtest.Proxy) { network.LoseAnswer() },
		"the server crashes": func(t *testing.T, server *pgpooledtest.Server, _ *pgpooledtest.Proxy) {
			if err := server.Restart(t.Context(), pgpooledtest.Immediate); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := pgpooledtest.Start(t)
			network := server.Proxy(t)
			url := server.Database(t)
			s := serviceOn(t, strings.Replace(url, server.Addr(), network.Addr(), 1))
			db := open(t, url)
			if _, err := db.Exec(`CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';
				CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON transfers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()`); err != nil {
				t.Fatal(err)
			}
			tx, err := db.Begin()
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			if _, err := tx.Exec("SELECT pg_advisory_xact_lock(1)"); err != nil {
				t.Fatal(err)
			}

			answer := httptest.NewRecorder()
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				req := httptest.NewRequest("POST", "/transfers", strings.NewReader(`{"from":1,"to":2,"cents":300}`))
				req.Header.Set("Idempotency-Key", "k")
				s.routes().ServeHTTP(answer, req)
			}()
			awaitCommit(t, server)
			happens(t, server, network)
			_ = tx.Rollback() // or it is gone with the server
			<-answered
			if answer.Code != 201 {
				t.Errorf("%d %s", answer.Code, answer.Body)
			}
			var transfers, cents int
			if err := db.QueryRow("SELECT (SELECT count(*) FROM transfers), cents FROM accounts WHERE id = 1").Scan(&transfers, &cents); err != nil {
				t.Fatal(err)
			}
			if transfers != 1 || cents != 999700 {
				t.Errorf("%d transfers, %d cents are left", transfers, cents)
			}
		})
	}
}

func awaitCommit(t *testing.T, server *pgpooledtest.Server) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		var n int
		err := server.Admin().QueryRow("SELECT count(*) FROM pg_stat_activity WHERE query = 'COMMIT' AND wait_event_type = 'Lock'").Scan(&n)
		if err == nil && n == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no COMMIT waits (%v)", err)
		}
	}
}
