package main

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
)

// work is something that callers do over and over on a pool.
type work struct {
	name     string // for -only
	what     string // for the table
	callers  int
	conns    int
	tls      bool
	far      bool // with network latency
	deadline bool // each call has a context with a deadline of its own

	prepare string // run before each measurement, by a superuser
	warmup  int    // calls before each measurement; 0 = for a third of its time

	// start makes what all calls share, on a fresh pool.
	start func(context.Context, *sql.DB) (call, error)

	script string // what pgbench runs, "" = it does not take part
	simple bool   // by the simple protocol: a text without arguments
}

// call is one call of one caller: n counts them.
type call func(ctx context.Context, caller, n int) error

// items is the number of rows of each table that is read.
const items = 10_000

// schema is made once. Fillfactor leaves room for updates in place.
const schema = `
	CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL);
	INSERT INTO items SELECT i, 'item number ' || i FROM generate_series(1, 10000) i;
	CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL) WITH (fillfactor = 50);
	INSERT INTO accounts SELECT i, 0 FROM generate_series(1, 10000) i;
	CREATE TABLE events (account int NOT NULL, what text NOT NULL);
	VACUUM ANALYZE items; VACUUM ANALYZE accounts`

// tidy takes back what a measurement before left.
const tidy = "TRUNCATE events; VACUUM accounts"

const (
	byID     = "SELECT name FROM items WHERE id = $1"
	textOnly = "SELECT name FROM items WHERE id = 4711"
	insert   = "INSERT INTO events (account, what) VALUES ($1, $2)"
	balance  = "SELECT balance FROM accounts WHERE id = $1"
	deposit  = "UPDATE accounts SET balance = balance + 1 WHERE id = $1"
	series   = "SELECT id, name FROM items WHERE id > $1 ORDER BY id LIMIT $2"

	randomID = "\\set id random(1, 10000)\n"
	selectID = randomID + "SELECT name FROM items WHERE id = :id;\n"
)

// someID spreads the calls over the items.
func someID(caller, n int) int { return int(mix(caller, n)%items) + 1 }

// mix is a cheap hash: the same calls for every rival.
func mix(caller, n int) uint64 {
	x := uint64(caller)<<32 + uint64(n) + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// works is the list of works, for so many callers on so many connections.
func works(callers, conns int) []work {
	w := func(name, what string, callers int, start func(context.Context, *sql.DB) (call, error)) work {
		return work{name: name, what: what, callers: callers, conns: conns, start: start}
	}
	with := func(w work, change func(*work)) work { change(&w); return w }
	point := with(w("select", "point select with an argument", callers, pointSelect), func(w *work) { w.script = selectID })
	one := with(point, func(w *work) { w.name, w.callers = "select-1", 1 })
	text := with(w("text", "select without arguments", callers, textSelect), func(w *work) { w.script, w.simple = textOnly+";\n", true })
	return []work{
		point,
		with(point, func(w *work) {
			w.name, w.what, w.deadline, w.script = "select-deadline", w.what+", context with a deadline", true, ""
		}),
		one,
		with(one, func(w *work) {
			w.name, w.what, w.deadline, w.script = "select-1-deadline", w.what+", context with a deadline", true, ""
		}),
		text,
		with(text, func(w *work) { w.name, w.callers = "text-1", 1 }),
		with(w("insert", "insert", callers, insertRow), func(w *work) {
			w.prepare, w.script = tidy, randomID+"INSERT INTO events (account, what) VALUES (:id, 'something');\n"
		}),
		with(w("tx", "transaction of three statements", callers, transaction), func(w *work) {
			w.prepare = tidy
			w.script = randomID + "BEGIN;\nSELECT balance FROM accounts WHERE id = :id;\nUPDATE accounts SET balance = balance + 1 WHERE id = :id;\n" +
				"INSERT INTO events (account, what) VALUES (:id, 'something');\nCOMMIT;\n"
		}),
		with(w("rows", "1,000 rows", conns, rowsOf(1000)), func(w *work) {
			w.script = "\\set id random(1, 9000)\nSELECT id, name FROM items WHERE id > :id ORDER BY id LIMIT 1000;\n"
		}),
		with(w("prepared", "`db.Prepare`d point select", callers, preparedSelect), func(w *work) { w.script = selectID }),
		w("oneoff", "texts that never repeat", callers, oneOff),
		with(point, func(w *work) { w.name, w.what, w.tls = "select-tls", w.what+", TLS", true }),
		with(point, func(w *work) { w.name, w.what, w.far = "select-far", w.what+", network latency", true }),
		with(one, func(w *work) { w.name, w.what, w.far = "select-1-far", w.what+", network latency", true }),
	}
}

func pointSelect(_ context.Context, db *sql.DB) (call, error) { return selectBy(db, byID), nil }

func selectBy(db *sql.DB, query string) call {
	return func(ctx context.Context, caller, n int) error {
		var name string
		return db.QueryRowContext(ctx, query, someID(caller, n)).Scan(&name)
	}
}

func textSelect(_ context.Context, db *sql.DB) (call, error) {
	return func(ctx context.Context, _, _ int) error {
		var name string
		return db.QueryRowContext(ctx, textOnly).Scan(&name)
	}, nil
}

func insertRow(_ context.Context, db *sql.DB) (call, error) {
	return func(ctx context.Context, caller, n int) error {
		_, err := db.ExecContext(ctx, insert, someID(caller, n), "something")
		return err
	}, nil
}

func transaction(_ context.Context, db *sql.DB) (call, error) {
	return func(ctx context.Context, caller, n int) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		id, now := someID(caller, n), 0
		if err := tx.QueryRowContext(ctx, balance, id).Scan(&now); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, deposit, id); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, insert, id, "something"); err != nil {
			return err
		}
		return tx.Commit()
	}, nil
}

func rowsOf(count int) func(context.Context, *sql.DB) (call, error) {
	return func(_ context.Context, db *sql.DB) (call, error) {
		return func(ctx context.Context, caller, n int) error {
			rows, err := db.QueryContext(ctx, series, int(mix(caller, n)%uint64(items-count+1)), count)
			if err != nil {
				return err
			}
			defer rows.Close()
			got := 0
			for ; rows.Next(); got++ {
				var (
					id   int
					name string
				)
				if err := rows.Scan(&id, &name); err != nil {
					return err
				}
			}
			if got != count {
				return fmt.Errorf("%d rows instead of %d: %w", got, count, rows.Err())
			}
			return rows.Err()
		}, nil
	}
}

func preparedSelect(ctx context.Context, db *sql.DB) (call, error) {
	st, err := db.PrepareContext(ctx, byID)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, caller, n int) error { // closing the pool closes st
		var name string
		return st.QueryRowContext(ctx, someID(caller, n)).Scan(&name)
	}, nil
}

func oneOff(_ context.Context, db *sql.DB) (call, error) {
	return func(ctx context.Context, caller, n int) error {
		var name string
		text := byID + " -- " + strconv.Itoa(caller) + "." + strconv.Itoa(n)
		return db.QueryRowContext(ctx, text, someID(caller, n)).Scan(&name)
	}, nil
}

// textsOf uses so many distinct texts, each as often as the others.
func textsOf(count int) func(context.Context, *sql.DB) (call, error) {
	return func(_ context.Context, db *sql.DB) (call, error) {
		calls := make([]call, count)
		for i := range calls {
			calls[i] = selectBy(db, byID+" -- "+strconv.Itoa(i))
		}
		return func(ctx context.Context, caller, n int) error {
			return calls[mix(n, caller)%uint64(count)](ctx, caller, n)
		}, nil
	}
}
