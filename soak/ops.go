package main

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"

	"github.com/pgpooled/pgpooled"
)

// op is a kind of call.
type op struct {
	name   string
	weight int
	unit   bool // one short statement: its latency is counted
	early  bool // its context ends early
	do     func(c *caller, ctx context.Context, p *pool) error
}

var (
	ops   []op
	total int
)

// The two refer to each other through caller.
func init() {
	ops = []op{
		{name: "read", weight: 20, unit: true, do: func(_ *caller, ctx context.Context, p *pool) error {
			return five(p.db.QueryContext(ctx, "select generate_series(1, 5)"))
		}},
		{name: "read with argument", weight: 20, unit: true, do: func(_ *caller, ctx context.Context, p *pool) error {
			return five(p.db.QueryContext(ctx, "select generate_series(1, $1::int)", 5))
		}},
		{name: "insert", weight: 12, unit: true, do: (*caller).insert},
		{name: "insert with argument", weight: 12, unit: true, do: (*caller).insertArgument},
		{name: "insert RETURNING", weight: 6, unit: true, do: (*caller).insertReturning},
		{name: "transaction", weight: 10, do: (*caller).transaction},
		{name: "prepared", weight: 5, do: (*caller).prepared},
		{name: "prepared once", weight: 5, do: (*caller).preparedOnce},
		{name: "rows closed early", weight: 4, do: (*caller).closedEarly},
		{name: "context ends early, read", weight: 3, early: true, do: func(_ *caller, ctx context.Context, p *pool) error {
			return five(p.db.QueryContext(ctx, "select g from generate_series(1, 5) g, pg_sleep(0.02)"))
		}},
		{name: "context ends early, insert", weight: 3, early: true, do: (*caller).slowInsert},
		{name: "sql.Conn", weight: 5, do: (*caller).pinned},
		{name: "COPY", weight: 3, do: (*caller).copyIn},
		{name: "WithIdempotent", weight: 6, do: (*caller).upsert},
		{name: "LISTEN and temporary table", weight: 1, do: (*caller).leavesState},
	}
	for _, o := range ops {
		total += o.weight
	}
}

func pick(rng *rand.Rand) op {
	n := rng.IntN(total)
	for _, o := range ops {
		if n -= o.weight; n < 0 {
			return o
		}
	}
	return ops[0]
}

// five expects the numbers 1 to 5.
func five(rows *sql.Rows, err error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var v int
		if err := rows.Scan(&v); err != nil {
			return err
		}
		if n++; v != n {
			return &errWrong{fmt.Sprintf("row %d is %d", n, v)}
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if n != 5 {
		return &errWrong{fmt.Sprintf("%d rows of 5, and no error", n)}
	}
	return rows.Close()
}

const insertText = "insert into soak_write values ($1)"

func (c *caller) insert(ctx context.Context, p *pool) error {
	return c.write(func(token int64) error {
		_, err := p.db.ExecContext(ctx, fmt.Sprintf("insert into soak_write values (%d)", token))
		return err
	})
}

func (c *caller) insertArgument(ctx context.Context, p *pool) error {
	return c.write(func(token int64) error {
		_, err := p.db.ExecContext(ctx, insertText, token)
		return err
	})
}

func (c *caller) insertReturning(ctx context.Context, p *pool) error {
	return c.write(func(token int64) error {
		var got int64
		err := p.db.QueryRowContext(ctx, insertText+" returning token", token).Scan(&got)
		if err == nil && got != token {
			c.r.classes.note("insert RETURNING", "wrong answer", false, fmt.Errorf("token %d came back as %d", token, got))
		}
		return err
	})
}

func (c *caller) slowInsert(ctx context.Context, p *pool) error {
	return c.write(func(token int64) error {
		_, err := p.db.ExecContext(ctx, "insert into soak_write select $1::bigint from pg_sleep(0.02)", token)
		return err
	})
}

// transaction writes, reads what it wrote, and now and then thinks better of it.
func (c *caller) transaction(ctx context.Context, p *pool) error {
	return c.write(func(token int64) error {
		return inTx(ctx, p, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, insertText, token); err != nil {
				return err
			}
			var n int
			if err := tx.QueryRowContext(ctx, "select count(*) from soak_write where token = $1", token).Scan(&n); err != nil {
				return err
			}
			if n != 1 {
				return &errWrong{fmt.Sprintf("a transaction sees its row %d times", n)}
			}
			if c.rng.IntN(8) == 0 {
				return errRolledBack
			}
			return nil
		})
	})
}

func inTx(ctx context.Context, p *pool, do func(*sql.Tx) error) error {
	tx, err := p.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := do(tx); err != nil {
		return err
	}
	return tx.Commit()
}

func (c *caller) prepared(ctx context.Context, p *pool) error {
	return c.write(func(token int64) error {
		st, err := p.db.PrepareContext(ctx, insertText)
		if err != nil {
			return err
		}
		defer st.Close()
		_, err = st.ExecContext(ctx, token)
		return err
	})
}

// preparedOnce uses a statement that lives as long as the run, on whatever
// session there is.
func (c *caller) preparedOnce(ctx context.Context, p *pool) error {
	st := c.stmts[p]
	if st == nil {
		var err error
		if st, err = p.db.PrepareContext(ctx, "select generate_series(1, $1::int)"); err != nil {
			return err
		}
		c.stmts[p] = st
	}
	return five(st.QueryContext(ctx, 5))
}

func (c *caller) closedEarly(ctx context.Context, p *pool) error {
	rows, err := p.db.QueryContext(ctx, "select generate_series(1, 3000)")
	if err != nil {
		return err
	}
	defer rows.Close()
	for n := 0; n < 3 && rows.Next(); n++ {
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return rows.Close()
}

// pinned: a sql.Conn stays on one session.
func (c *caller) pinned(ctx context.Context, p *pool) error {
	return onConn(ctx, p, func(conn *sql.Conn) error {
		var first, second int
		if err := conn.QueryRowContext(ctx, "select pg_backend_pid()").Scan(&first); err != nil {
			return err
		}
		err := c.write(func(token int64) error {
			_, err := conn.ExecContext(ctx, insertText, token)
			return err
		})
		if err != nil {
			return err
		}
		if err := conn.QueryRowContext(ctx, "select pg_backend_pid()").Scan(&second); err != nil {
			return err
		}
		if first != second {
			return &errWrong{fmt.Sprintf("a sql.Conn moved from session %d to %d", first, second)}
		}
		return nil
	})
}

func onConn(ctx context.Context, p *pool, do func(*sql.Conn) error) error {
	conn, err := p.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return do(conn)
}

// copyIn is all or nothing.
func (c *caller) copyIn(ctx context.Context, p *pool) error {
	tokens := []int64{c.r.book.token(), c.r.book.token(), c.r.book.token()}
	err := inTx(ctx, p, func(tx *sql.Tx) error {
		st, err := tx.PrepareContext(ctx, "copy soak_write (token) from stdin")
		if err != nil {
			return err
		}
		defer st.Close()
		for _, token := range tokens {
			if _, err := st.ExecContext(ctx, token); err != nil {
				return err
			}
		}
		if _, err := st.ExecContext(ctx); err != nil {
			return err
		}
		return st.Close()
	})
	learnt := c.learn(err)
	for _, token := range tokens {
		c.r.book.tell(token, learnt, err)
	}
	return err
}

// upsert may be repeated by the pool; its table has a key.
func (c *caller) upsert(ctx context.Context, p *pool) error {
	token := c.r.book.token()
	_, err := p.db.ExecContext(pgpooled.WithIdempotent(ctx), "insert into soak_upsert values ($1) on conflict do nothing", token)
	c.r.book.tell(token, toldBy(err, true), err)
	return err
}

// leavesState goes away from a session that listens. A notification makes an
// idle one unusable, which the pool has to notice.
func (c *caller) leavesState(ctx context.Context, p *pool) error {
	return onConn(ctx, p, func(conn *sql.Conn) error {
		for _, text := range []string{
			"listen soak",
			"create temporary table if not exists soak_temp (n int)",
			"insert into soak_temp select generate_series(1, 100)",
		} {
			if _, err := conn.ExecContext(ctx, text); err != nil {
				return err
			}
		}
		if c.rng.IntN(2) == 0 {
			_, err := conn.ExecContext(ctx, "notify soak")
			return err
		}
		_, err := conn.ExecContext(ctx, "drop table soak_temp")
		return err
	})
}
