package compat

import (
	"context"
	"database/sql/driver"
	"go/importer"
	"go/token"
	"go/types"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lib/pq"

	"github.com/pgpooled/pgpooled"
)

// interfaces are those of package driver.
var interfaces = map[string]reflect.Type{}

func init() {
	for _, t := range []reflect.Type{
		reflect.TypeFor[driver.Conn](), reflect.TypeFor[driver.ConnBeginTx](), reflect.TypeFor[driver.ConnPrepareContext](),
		reflect.TypeFor[driver.Connector](), reflect.TypeFor[driver.Driver](), reflect.TypeFor[driver.DriverContext](),
		//lint:ignore SA1019 lib/pq may have them
		reflect.TypeFor[driver.Execer](), reflect.TypeFor[driver.Queryer](), reflect.TypeFor[driver.ColumnConverter](),
		reflect.TypeFor[driver.ExecerContext](), reflect.TypeFor[driver.QueryerContext](),
		reflect.TypeFor[driver.NamedValueChecker](), reflect.TypeFor[driver.Pinger](), reflect.TypeFor[driver.Result](),
		reflect.TypeFor[driver.Rows](), reflect.TypeFor[driver.RowsColumnTypeDatabaseTypeName](),
		reflect.TypeFor[driver.RowsColumnTypeLength](), reflect.TypeFor[driver.RowsColumnTypeNullable](),
		reflect.TypeFor[driver.RowsColumnTypePrecisionScale](), reflect.TypeFor[driver.RowsColumnTypeScanType](),
		reflect.TypeFor[driver.RowsNextResultSet](), reflect.TypeFor[driver.SessionResetter](), reflect.TypeFor[driver.Stmt](),
		reflect.TypeFor[driver.StmtExecContext](), reflect.TypeFor[driver.StmtQueryContext](), reflect.TypeFor[driver.Tx](),
		reflect.TypeFor[driver.Validator](), reflect.TypeFor[driver.ValueConverter](), reflect.TypeFor[driver.Valuer](),
	} {
		interfaces[t.Name()] = t
	}
}

// A newer Go may bring an interface that is not in the list.
func TestTheListOfDriverInterfacesIsComplete(t *testing.T) {
	t.Parallel()
	p, err := importer.ForCompiler(token.NewFileSet(), "source", nil).Import("database/sql/driver")
	must(t, err)
	n := 0
	for _, name := range p.Scope().Names() {
		if _, ok := p.Scope().Lookup(name).(*types.TypeName); !ok || !types.IsInterface(p.Scope().Lookup(name).Type()) || !token.IsExported(name) {
			continue
		}
		if name == "Value" { // any
			continue
		}
		if n++; interfaces[name] == nil {
			t.Errorf("driver.%s is not compared", name)
		}
	}
	if n < 20 {
		t.Errorf("only %d interfaces found", n)
	}
}

// things are one of each that a driver hands to database/sql.
func things(t *testing.T, s *side) map[string]any {
	t.Helper()
	ctx := context.Background()
	var c driver.Connector
	var err error
	if s.lib() {
		c, err = pq.NewConnector(s.dsn)
	} else {
		c, err = pgpooled.NewConnector(s.dsn)
	}
	must(t, err)
	all := map[string]any{"connector": c, "driver": c.Driver()}
	conn, err := c.Connect(ctx)
	must(t, err)
	t.Cleanup(func() {
		must(t, conn.Close())
		if c, ok := c.(interface{ Close() error }); ok {
			must(t, c.Close())
		}
	})
	all["conn"] = conn
	tx, err := conn.(driver.ConnBeginTx).BeginTx(ctx, driver.TxOptions{})
	must(t, err)
	all["tx"] = tx
	_, err = conn.(driver.ExecerContext).ExecContext(ctx, "CREATE TABLE IF NOT EXISTS copied (n int)", nil)
	must(t, err)
	all["result"], err = conn.(driver.ExecerContext).ExecContext(ctx, "INSERT INTO copied VALUES (1)", nil)
	must(t, err)
	args := []driver.NamedValue{{Ordinal: 1, Value: int64(7)}}
	for _, name := range []string{"rows with arguments", "rows with arguments again", "rows with arguments, cached"} {
		all[name], err = conn.(driver.QueryerContext).QueryContext(ctx, "SELECT $1::int", args)
		must(t, err)
		must(t, all[name].(driver.Rows).Close())
	}
	rows, err := conn.(driver.QueryerContext).QueryContext(ctx, "SELECT 1", nil)
	must(t, err)
	all["rows"] = rows
	must(t, rows.Close())
	st, err := conn.(driver.ConnPrepareContext).PrepareContext(ctx, "SELECT $1::int")
	must(t, err)
	all["statement"] = st
	rows, err = st.(driver.StmtQueryContext).QueryContext(ctx, args)
	must(t, err)
	all["rows of a statement"] = rows
	must(t, rows.Close())
	all["result of a statement"], err = st.(driver.StmtExecContext).ExecContext(ctx, args)
	must(t, err)
	must(t, st.Close())
	copying, err := conn.(driver.ConnPrepareContext).PrepareContext(ctx, "COPY copied FROM STDIN")
	must(t, err)
	all["statement of COPY"] = copying
	must(t, copying.Close())
	must(t, tx.Rollback())
	return all
}

// more is what pgpooled has beyond lib/pq, thing by thing: each of them changes
// what database/sql does, so each is known.
var more = map[string]string{
	"driver":            "DriverContext",
	"statement":         "ColumnConverter NamedValueChecker", // sqlmw's: they pass the question on to lib/pq's connection
	"statement of COPY": "ColumnConverter NamedValueChecker StmtExecContext StmtQueryContext",
}

// aside is what lib/pq's one type for connection and transaction has by that only.
func aside(thing, name string) bool {
	return thing == "conn" && name == "Tx" || thing == "tx" && name != "Tx"
}

// lost are methods of lib/pq's types that belong to no interface of package
// driver, and that pgpooled's have not. PQConn gives the connection that has them.
var lost = map[string]string{
	"conn":              "Commit Rollback",
	"connector":         "Dialer",
	"statement of COPY": "CopyData",
}

func TestEveryDriverInterfaceOfLibPQSurvives(t *testing.T) {
	t.Parallel()
	var sides []map[string]any
	for _, name := range []string{"postgres", "pgpooled"} {
		sides = append(sides, things(t, newSide(t, name)))
	}
	for _, thing := range slices.Sorted(maps.Keys(sides[0])) {
		theirs, ours := reflect.TypeOf(sides[0][thing]), reflect.TypeOf(sides[1][thing])
		var kept, added []string
		for _, name := range slices.Sorted(maps.Keys(interfaces)) {
			if aside(thing, name) {
				continue
			}
			switch had, has := theirs.Implements(interfaces[name]), ours.Implements(interfaces[name]); {
			case had && !has:
				t.Errorf("%s: lib/pq's %v is a driver.%s, pgpooled's %v is not", thing, theirs, name, ours)
			case had:
				kept = append(kept, name)
			case has:
				added = append(added, name)
			}
		}
		if len(kept) == 0 {
			t.Errorf("%s: nothing was compared", thing)
		}
		if got := strings.Join(added, " "); got != more[thing] {
			t.Errorf("%s: pgpooled's %v is also %q, known are %q", thing, ours, got, more[thing])
		}
		known := lost[thing]
		if strings.HasPrefix(thing, "rows") {
			known = "Result Tag"
		}
		var gone []string
		for i := range theirs.NumMethod() {
			if name := theirs.Method(i).Name; thing != "tx" && !hasMethod(ours, name) {
				gone = append(gone, name)
			}
		}
		if got := strings.Join(gone, " "); got != known {
			t.Errorf("%s: lib/pq's %v has the methods %q, pgpooled's %v has not; known are %q", thing, theirs, got, ours, known)
		}
	}
}

func hasMethod(t reflect.Type, name string) bool { _, ok := t.MethodByName(name); return ok }
