package pgpooled_test

import (
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
	"github.com/pgpooled/pgpooled/internal/faultnet"
)

// The server refuses the token because the transaction has lost against another
// one. That is the answer: no COMMIT without a token follows, whose fate could
// not be found out. The second time the last answer is cut.
func TestASerializationFailureOfTheTokenIsTheTransactionsOwn(t *testing.T) {
	t.Parallel()
	db, proxy := through(t, server, "dbname", server.Database(t), "commit_check", "ledger")
	mustExec(t, db, "create table doctors (id int, on_call bool); insert into doctors values (1, true), (2, true)")
	serializable := &sql.TxOptions{Isolation: sql.LevelSerializable}
	answer := 0
	for range 2 {
		var txs [2]*sql.Tx
		for i := range txs {
			var err error
			if txs[i], err = db.BeginTx(testContext(t), serializable); err != nil {
				t.Fatal(err)
			}
			if n := queryInt(t, txs[i], "select count(*) from doctors where on_call"); n != 2 {
				t.Fatalf("%d on call", n)
			}
		}
		for i, tx := range txs {
			mustExec(t, tx, "update doctors set on_call = false where id = $1", i+1)
		}
		if err := txs[0].Commit(); err != nil {
			t.Fatal(err)
		}
		before, fired := counted(proxy, faultnet.ToClient), proxy.Fired()
		if answer > 0 {
			proxy.Arm(faultnet.ToClient, answer-3, faultnet.CutClient)
		}
		err := txs[1].Commit()
		proxy.Disarm()
		var refused *pq.Error
		if !errors.As(err, &refused) || refused.Code != "40001" {
			t.Errorf("told %T %v", err, err)
		}
		if answer > 0 && proxy.Fired() == fired {
			t.Error("nothing was cut")
		}
		answer = counted(proxy, faultnet.ToClient) - before
		mustExec(t, db, "update doctors set on_call = true")
	}
	if s := stats(t, db); s.InUse != 0 || s.OutcomesUnknown != 0 {
		t.Errorf("%+v", s)
	}
}

// The ledger is made at first use, and the connection is cut meanwhile: that
// says nothing about the ledger, and the next session finds or makes it.
func TestACutWhileTheLedgerIsMadeDoesNotSwitchItOff(t *testing.T) {
	t.Parallel()
	dbname := server.Database(t)
	for after := 0; ; after += 20 {
		var said lockedBuffer
		proxy, err := faultnet.New(server.Addr())
		if err != nil {
			t.Fatal(err)
		}
		name := app()
		db, err := pgpooled.Open(server.DSN("host", proxy.Host(), "port", fmt.Sprint(proxy.Port()), "dbname", dbname, "application_name", name,
			"commit_check", "ledger"), pgpooled.WithLogger(slog.New(slog.NewTextHandler(&said, nil))))
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, db, "drop table if exists pgpooled_ledger")
		fired := proxy.Fired()
		proxy.Arm(faultnet.ToClient, after, faultnet.CutClient)
		tx, err := db.BeginTx(testContext(t), nil)
		proxy.Disarm()
		if err != nil {
			t.Fatal(err)
		}
		_ = tx.Rollback()
		_ = db.Close()
		struck := proxy.Fired() > fired
		_ = proxy.Close()
		if err := server.AwaitSessions(testContext(t), name, 0); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(said.String(), "cannot be made") {
			t.Errorf("cut after %d: %s", after, said.String())
		}
		if !struck {
			return
		}
	}
}
