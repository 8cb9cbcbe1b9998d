package cutmatrix

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

const (
	// firstID has as many digits as all that follow, so that every call of a
	// cell has the same length.
	firstID  = 100000
	rowsRead = 5
)

// Kind is one way to call the database.
type Kind struct {
	Name  string
	Reads bool // it has no effect, and rowsRead rows
	InTx  bool // a read that belongs to a transaction is not repeated
	Copy  bool // it streams COPY FROM STDIN with lib/pq's interface

	// Disguised: it writes, and its text looks as if it only read. Half-read rows
	// of it end in an error about rows, which says nothing of an effect.
	Disguised bool

	// Do makes the call. A write leaves one row with the number id. rows is how
	// many came back.
	Do func(ctx context.Context, db *sql.DB, table string, id int) (rows int, err error)

	rowsBack int    // of a write
	perID    string // what has to be there for each number; %[1]s is the table, %% stands for the number
}

func prepareTable(table string) string {
	return fmt.Sprintf(`create table %[1]s (id int);
		create function %[1]s_f(int) returns int language sql volatile as 'insert into %[1]s values ($1) returning id'`, table)
}

func dropTable(table string) string {
	return fmt.Sprintf(`do $$ declare v text; begin
		for v in select viewname from pg_views where viewname like '%[1]s\_v%%' loop execute 'drop view ' || v; end loop;
		drop table %[1]s; drop function %[1]s_f(int); end $$`, table)
}

func prepareIDs(ctx context.Context, s *pgtest.Server, k Kind, table string, n int) error {
	_, err := s.Admin().ExecContext(ctx, fmt.Sprintf(`do $do$ begin for i in %d..%d loop execute replace(%s, '%%', i::text); end loop; end $do$`,
		firstID, firstID+n, pq.QuoteLiteral(fmt.Sprintf(k.perID, table))))
	return err
}

// Kinds are all of them.
func Kinds() []Kind {
	return append(writes(), reads()...)
}

func writes() []Kind {
	return []Kind{
		{Name: "exec", Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			return exec(db.ExecContext(ctx, fmt.Sprintf("insert into %s values (%d)", table, id)))
		}},
		{Name: "exec with argument", Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			return exec(db.ExecContext(ctx, "insert into "+table+" values ($1)", id))
		}},
		{Name: "prepared exec", Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			st, err := db.PrepareContext(ctx, "insert into "+table+" values ($1)")
			if err != nil {
				return 0, err
			}
			defer st.Close()
			return exec(st.ExecContext(ctx, id))
		}},
		{Name: "RETURNING", rowsBack: 1, Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			return count(db.QueryContext(ctx, fmt.Sprintf("insert into %s values (%d) returning id", table, id)))
		}},
		{Name: "RETURNING with argument", rowsBack: 1, Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			return count(db.QueryContext(ctx, "insert into "+table+" values ($1) returning id", id))
		}},
		{Name: "RETURNING, QueryRow", rowsBack: 1, Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			err := db.QueryRowContext(ctx, "insert into "+table+" values ($1) returning id", id).Scan(&id)
			if err != nil {
				return 0, err
			}
			return 1, nil
		}},
		{Name: "prepared RETURNING", rowsBack: 1, Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			st, err := db.PrepareContext(ctx, "insert into "+table+" values ($1) returning id")
			if err != nil {
				return 0, err
			}
			defer st.Close()
			return count(st.QueryContext(ctx, id))
		}},
		{Name: "CTE that writes", rowsBack: 1, Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			return count(db.QueryContext(ctx, fmt.Sprintf("with w as (insert into %s values (%d) returning id) select id from w", table, id)))
		}},
		{Name: "volatile function", rowsBack: 1, Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			return count(db.QueryContext(ctx, "select "+table+"_f($1)", id))
		}},
		{Name: "view that writes", Disguised: true, rowsBack: 1, perID: "create or replace view %[1]s_v%% as select %[1]s_f(%%)",
			Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
				return count(db.QueryContext(ctx, fmt.Sprintf("select * from %s_v%d", table, id)))
			}},
		{Name: "transaction", Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			return inTx(ctx, db, func(tx *sql.Tx) (int, error) {
				return exec(tx.ExecContext(ctx, "insert into "+table+" values ($1)", id))
			})
		}},
		{Name: "prepared in a transaction", Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			return inTx(ctx, db, func(tx *sql.Tx) (int, error) {
				st, err := tx.PrepareContext(ctx, "insert into "+table+" values ($1)")
				if err != nil {
					return 0, err
				}
				return exec(st.ExecContext(ctx, id))
			})
		}},
		{Name: "COPY", Copy: true, Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			return inTx(ctx, db, func(tx *sql.Tx) (int, error) {
				st, err := tx.PrepareContext(ctx, "copy "+table+" (id) from stdin")
				if err != nil {
					return 0, err
				}
				if _, err := st.ExecContext(ctx, id); err != nil {
					return 0, err
				}
				if _, err := st.ExecContext(ctx); err != nil {
					return 0, err
				}
				return 0, st.Close()
			})
		}},
		{Name: "sql.Conn", Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			return onConn(ctx, db, func(c *sql.Conn) (int, error) {
				return exec(c.ExecContext(ctx, "insert into "+table+" values ($1)", id))
			})
		}},
		{Name: "prepared on sql.Conn", Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			return onConn(ctx, db, func(c *sql.Conn) (int, error) {
				st, err := c.PrepareContext(ctx, "insert into "+table+" values ($1)")
				if err != nil {
					return 0, err
				}
				defer st.Close()
				return exec(st.ExecContext(ctx, id))
			})
		}},
		{Name: "BEGIN and COMMIT as texts on sql.Conn", Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			return onConn(ctx, db, func(c *sql.Conn) (int, error) {
				return all(ctx, c, "begin", fmt.Sprintf("insert into %s values (%d)", table, id), "commit")
			})
		}},
		{Name: "COMMIT as a text in a transaction", Do: func(ctx context.Context, db *sql.DB, table string, id int) (int, error) {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return 0, err
			}
			defer tx.Rollback()
			return all(ctx, tx, fmt.Sprintf("insert into %s values (%d)", table, id), "commit")
		}},
	}
}

func all(ctx context.Context, e interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}, texts ...string,
) (int, error) {
	for _, text := range texts {
		if _, err := e.ExecContext(ctx, text); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func reads() []Kind {
	const text, withArg = "select generate_series(1, 5)", "select generate_series(1, $1::int)"
	return []Kind{
		{Name: "SELECT", Reads: true, Do: func(ctx context.Context, db *sql.DB, _ string, _ int) (int, error) {
			return count(db.QueryContext(ctx, text))
		}},
		{Name: "SELECT with argument", Reads: true, Do: func(ctx context.Context, db *sql.DB, _ string, _ int) (int, error) {
			return count(db.QueryContext(ctx, withArg, rowsRead))
		}},
		{Name: "prepared SELECT", Reads: true, Do: func(ctx context.Context, db *sql.DB, _ string, _ int) (int, error) {
			st, err := db.PrepareContext(ctx, withArg)
			if err != nil {
				return 0, err
			}
			defer st.Close()
			return count(st.QueryContext(ctx, rowsRead))
		}},
		{Name: "SELECT on sql.Conn", Reads: true, Do: func(ctx context.Context, db *sql.DB, _ string, _ int) (int, error) {
			return onConn(ctx, db, func(c *sql.Conn) (int, error) { return count(c.QueryContext(ctx, withArg, rowsRead)) })
		}},
		{Name: "SELECT in a transaction", Reads: true, InTx: true, Do: func(ctx context.Context, db *sql.DB, _ string, _ int) (int, error) {
			n := 0
			_, err := inTx(ctx, db, func(tx *sql.Tx) (_ int, err error) {
				n, err = count(tx.QueryContext(ctx, text))
				return n, err
			})
			return n, err
		}},
	}
}

func exec(_ sql.Result, err error) (int, error) { return 0, err }

// count reads rows to their end. They are 1, 2, 3, ... or a single number.
func count(rows *sql.Rows, err error) (n int, _ error) {
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var v int
		if err := rows.Scan(&v); err != nil {
			return n, err
		}
		n++
		if v != n && v < firstID {
			return -1, nil // a wrong row, which no kind expects
		}
	}
	if err := rows.Err(); err != nil {
		return n, err
	}
	return n, rows.Close()
}

func inTx(ctx context.Context, db *sql.DB, do func(*sql.Tx) (int, error)) (int, error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	n, err := do(tx)
	if err != nil {
		return n, err
	}
	return n, tx.Commit()
}

func onConn(ctx context.Context, db *sql.DB, do func(*sql.Conn) (int, error)) (int, error) {
	c, err := db.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return do(c)
}
