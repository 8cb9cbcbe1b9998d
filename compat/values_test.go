//lint:file-ignore SA1019 applications use the deprecated names, too

package compat

import (
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
)

type (
	money  int64
	word   string
	broken struct{}
	point  struct{ X, Y int }
)

// Value is driver.Valuer.
func (broken) Value() (driver.Value, error) { return nil, errors.New("no value") }

// Value is driver.Valuer.
func (p point) Value() (driver.Value, error) { return json.Marshal(p) }

// values are arguments that a driver, or database/sql for it, has to convert.
func values() []any {
	n, s := 5, "s"
	var none *int
	at := time.Date(2024, 2, 29, 12, 0, 0, 123456000, time.UTC)
	return []any{
		nil, true, 1, int8(-1), uint8(255), uint32(7), uint64(math.MaxUint64), uint64(9), 1.5, float32(0.25), math.Inf(1), "text", "", "nul\x00",
		[]byte("bytes"), []byte(nil), []byte{}, json.RawMessage(`{"a":1}`), money(5), word("w"), &n, &s, none, at, &at, time.Time{},
		sql.NullString{String: "x", Valid: true}, sql.NullInt64{}, sql.Null[int]{V: 3, Valid: true}, pq.NullTime{Time: at, Valid: true}, pq.NullTime{},
		pq.Array([]string{"a", "b c", `"`}), pq.Array([]int64{1, 2}), pq.Array([]int64(nil)), pq.Array([][]int{{1}, {2}}), pq.ByteaArray{{1}},
		pq.StringArray{"a"}, point{1, 2}, broken{}, struct{}{}, []string{"a"}, []int{1}, map[string]int{}, make(chan int), complex(1, 2),
		sql.Named("n", 1), sql.Out{Dest: &n}, [2]byte{1, 2},
	}
}

func TestArgumentsAreConvertedAndRefusedAlike(t *testing.T) {
	for _, text := range []string{"SELECT $1::text", "SELECT $1::bytea", "SELECT $1::int8", "SELECT $1::timestamptz", "SELECT $1::jsonb", "SELECT $1::text[]"} {
		t.Run(text, func(t *testing.T) {
			eachWay(t, func(t *testing.T, s *side) {
				db := s.open(t)
				st, err := db.PrepareContext(t.Context(), text)
				must(t, err)
				defer st.Close()
				tx, err := db.Begin()
				must(t, err)
				defer tx.Rollback()
				for i, v := range values() {
					rows, err := db.QueryContext(t.Context(), text, v)
					s.result("direct", rows, err)
					rows, err = st.QueryContext(t.Context(), v)
					s.result("prepared", rows, err)
					_, err = st.ExecContext(t.Context(), v)
					s.see("executed", i, err)
					_, err = tx.Exec("SAVEPOINT a")
					must(t, err)
					rows, err = tx.Query(text, v)
					s.result("in a transaction", rows, err)
					_, err = tx.Exec("ROLLBACK TO a")
					must(t, err)
				}
			})
		})
	}
}

func TestScanningIntoTheTypesOfPQ(t *testing.T) {
	both(t, func(t *testing.T, s *side) {
		db := s.open(t)
		for range 3 {
			var (
				words  []string
				nulls  []sql.NullInt64
				at     pq.NullTime
				raw    sql.RawBytes
				number sql.Null[float64]
			)
			rows, err := db.Query("SELECT $1::text[], '{1,NULL}'::int8[], $2::timestamptz, 'raw', NULL::float8", pq.Array([]string{"a,b", ""}), pq.NullTime{})
			must(t, err)
			for rows.Next() {
				s.see("scan", rows.Scan(pq.Array(&words), pq.Array(&nulls), &at, &raw, &number), words, nulls, at, string(raw), number)
			}
			s.see("end", rows.Err(), rows.Close())
		}
	})
}

func TestCopyFromStdin(t *testing.T) {
	both(t, func(t *testing.T, s *side) {
		db := s.open(t)
		_, err := db.Exec("CREATE TABLE copied (i int PRIMARY KEY, w text, a text[], at timestamptz, b bytea)")
		must(t, err)
		const text = "COPY copied (i, w, a, at, b) FROM STDIN"
		for round := range 3 {
			tx, err := db.Begin()
			must(t, err)
			st, err := tx.Prepare(text)
			must(t, err)
			for i := range 300 {
				_, err = st.Exec(round*1000+i, "tab\t and \\ nl\n", pq.Array([]string{"a", "b"}), time.Unix(int64(i), 0).UTC(), []byte{0, 1})
				must(t, err)
			}
			_, err = st.Exec(round*1000+300, nil, pq.NullTime{}, sql.NullString{}, nil)
			s.see("values that are null", err)
			res, err := st.Exec()
			must(t, err)
			n, err := res.RowsAffected()
			s.see("flushed", n, err, st.Close(), tx.Commit())
		}
		for _, bad := range [][]any{{1}, {"x", "w", nil, nil, nil}, {5, "double", nil, nil, nil}, {broken{}, "", nil, nil, nil}, {7, struct{}{}, nil, nil, nil}} {
			tx, err := db.Begin()
			must(t, err)
			st, err := tx.Prepare(text)
			must(t, err)
			_, err = st.Exec(bad...)
			_, end := st.Exec()
			s.see("refused", err, end)
			_ = st.Close()
			_ = tx.Rollback()
		}
		_, err = db.Prepare(text)
		s.see("outside a transaction", err)
		_, err = db.Exec("COPY copied TO STDOUT")
		// lib/pq knows no such answer and gives the connection up, so pgpooled adds
		// that the statement may have run.
		s.see("COPY TO STDOUT", err != nil && strings.Contains(err.Error(), "CopyOutResponse"))
		rows, err := db.Query("SELECT count(*), sum(i), max(w), max(a), max(at), max(encode(b, 'hex')) FROM copied")
		s.result("copied", rows, err)
	})
}
