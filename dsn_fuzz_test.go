package pgpooled

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzParseDSN(f *testing.F) {
	clearEnv(f)
	for _, dsn := range []string{
		"", " ", "postgres://", "postgresql://u:p@h:1/d?sslmode=disable&max_open_conns=5#", "host=h user=u password='a\\'b\\\\' port=1,2",
		"postgres://u:p@a:5432,b:5433,[::1]:1/d?target_session_attrs=read-write&schema=app&pool_name=x", "postgres:///d?host=/tmp&port=5",
		"postgres://u@%2Fvar%2Frun/d?options=-c+geqo%3Doff", "host='' dbname = 'x y' schema='a\"b' connect_timeout=7", "hostaddr=1.1.1.1,::1 port=,6",
		"channel_binding=require sslaccept=strict", "gssencmode=prefer supa=x work_mem=1", "postgres://h,/d?port=,5", "user='' password='' options=''",
		"postgres://:p@h", "postgres://@/?user=a%40b&application_name=x", "service=x", "host=@a,@b", "passfile=x sslkey=y tz=UTC keepalives=0",
		"retry_mode=all commit_check=xid statement_cache_size=3 conn_max_lifetime=1ms conn_max_lifetime_jitter=1us", "host=,b",
		"postgres://h?User.x=1&user.X=2", "sslrootcert=system sslmode=verify-full", "pgbouncer=on binary_parameters=True",
		"A=0 password=0", // FormatDSN put an unknown key behind a bare password
	} {
		f.Add(dsn)
	}
	f.Fuzz(func(t *testing.T, dsn string) {
		c, err := ParseDSN(dsn)
		if err != nil {
			var e *DSNError
			if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), "pgpooled: ") {
				t.Fatalf("not a *DSNError: %v", err)
			}
			return
		}
		checkRoundTrip(t, c)
	})
}

// FuzzDSNKeepsSecrets puts a password into DSNs, properly and in the ways people
// get wrong, and looks for pieces of it in everything that is meant to be read.
func FuzzDSNKeepsSecrets(f *testing.F) {
	clearEnv(f)
	for _, password := range []string{
		"hunter2!", "a/b@c:d?e#f", "p@ss/w0rd@x", "x y=z", "it's 5 o'clock", `back\slash`, "12345/6789", "1234?sslx=abcd", "ab max_open_conns=wxyz",
		"a&b=c&supa=wxyz", "%zz%41%", "secret=thing", "q pool_wxyz=1", "postgres://inner:url@x/y", "[::1]wxyz", "wxyz://abcd", "a,b:c,dwxyz", "k@h/x?wxyz=@",
		"p Password=wxyz", "x\ny=wxyz", "日本語パス", "0x1F2e:99999",
	} {
		f.Add(password, uint8(4))
	}
	f.Setenv("PGUSER", "appuser") // not the machine's user, which no vocabulary has
	vocabulary := ownWords(f)
	const rest = "postgres://appuser:PASSWORD@db.example.com:5432/shop?sslmode=disable&max_open_conns=7&work_mem=64MB" +
		" host=db.example.com:5432 host=xxxxx:5432 host=localhost:5432 host=h:5432 user=appuser user=xxxxx dbname=shop dbname=xxxxx dbname=x" +
		" password=xxxxx sslmode=disable sslmode=xxxxx max_open_conns=7 and 1 more and 2 more dbname= password=xxxxx and 1 more xxxxx dbname user password host port"

	f.Fuzz(func(t *testing.T, password string, cut uint8) {
		if len(password) < 4 || !utf8.ValidString(password) {
			t.Skip("too short for a piece of four characters")
		}
		truncated := password[:min(int(cut), len(password))]
		inURL := func(p string) string {
			return "postgres://appuser:" + p + "@db.example.com:5432/shop?sslmode=disable&max_open_conns=7&work_mem=64MB"
		}
		inText := func(p string) string {
			return "host=db.example.com user=appuser password=" + p + " dbname=shop sslmode=disable max_open_conns=7"
		}
		proper := map[string]string{
			"URL":       inURL(escape(password, "")),
			"text":      inText(quoteValue(password)),
			"parameter": "postgres://appuser@db.example.com/shop?password=" + escape(password, ""),
		}
		corrupted := map[string]string{
			"raw in a URL":           inURL(password),
			"only half encoded":      inURL(strings.ReplaceAll(password, "@", "%40")),
			"raw parameter":          "postgres://appuser@db.example.com/shop?password=" + password,
			"unquoted":               inText(password),
			"a quote missing":        inText("'" + password),
			"quoted, not escaped":    inText("'" + password + "'"),
			"a URL cut short":        "postgres://appuser:" + strings.ReplaceAll(truncated, "@", "%40"), // raw, it is a host
			"text cut short":         "host=db.example.com user=appuser password='" + truncated,
			"without a scheme":       "appuser:" + password + "@db.example.com/shop",
			"as the scheme":          password + "://appuser@db.example.com/shop",
			"the colon encoded":      "postgres://appuser%3A" + escape(password, "") + "@db.example.com/shop",
			"a wrong key before it":  "host=db.example.com pasword=" + password,
			"as one of our values":   "host=db.example.com pool_timeout=" + quoteValue(password),
			"as one of lib/pq's":     "host=db.example.com sslmode=" + quoteValue(password),
			"as a value of another":  "postgres://h/d?supa=" + escape(password, "") + "&sslcompression=" + escape(password, ""),
			"encrypted key":          "postgres://h/d?sslpassword=" + escape(password, ""),
			"a run-time parameter":   "host=db.example.com my.secret=" + quoteValue(password) + " options=" + quoteValue(password),
			"as a key":               "host=db.example.com " + password + "=1",
			"as a key of a URL":      "postgres://h/d?" + escape(password, "") + "=1",
			"inline key":             "host=h sslinline=yes sslkey=" + quoteValue(password) + " sslcert=" + quoteValue(password),
			"passed as a whole":      password,
			"as the path of the URL": "postgres://db.example.com/" + "x?application_name=" + escape(password, "") + "x",
		}
		check := func(how, dsn string) {
			t.Helper()
			var texts []string
			c, err := ParseDSN(dsn)
			if err != nil {
				texts = []string{err.Error()}
			} else {
				texts = append(c.Notices(), c.String())
				for _, s := range c.Settings() {
					texts = append(texts, s.Key+"="+s.Value, s.Name)
				}
			}
			for _, text := range texts {
				if piece := leaked(text, password, rest+vocabulary); piece != "" {
					t.Errorf("%s: %q is in %q", how, piece, text)
				}
			}
		}
		for how, dsn := range proper {
			if strings.ContainsRune(password, 0) {
				break
			}
			c, err := ParseDSN(dsn)
			if err != nil || c.PQ.Password != password {
				t.Errorf("%s: the password does not arrive (%v)", how, err)
			}
			check(how, dsn)
		}
		if isDSNItself(password) || isDSNItself(truncated) {
			return
		}
		for how, dsn := range corrupted {
			check(how, dsn)
		}
	})
}

// ownWords is every text of the package's DSN code: what an error may say,
// whatever the password.
func ownWords(t testing.TB) string {
	t.Helper()
	files, err := filepath.Glob("dsn*.go")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
	}
	compose := func(key, text string) {
		b.WriteString("pgpooled: " + key + ": " + text + " did you mean " + key + "?\npgpooled: " + key + " and " + text + " " + key + " is accepted: ")
	}
	for i := range params {
		p := &params[i]
		compose(p.key, p.allowed())
		b.WriteString(" mean " + p.env() + "?")
		for _, a := range p.aliases {
			compose(a.name, p.allowedAs(a.name))
		}
	}
	for key := range pqKeys {
		compose(key, "")
	}
	for key, f := range foreignKeys {
		compose(key, f.refuse)
		b.WriteString(key + " " + f.note)
	}
	return b.String()
}

// leaked returns a piece of four characters of the password that text has and
// the harmless words have not.
func leaked(text, password, harmless string) string {
	runes := []rune(password)
	for i := 0; i+4 <= len(runes); i++ {
		if piece := string(runes[i : i+4]); strings.Contains(text, piece) && !strings.Contains(harmless, piece) {
			return piece
		}
	}
	return ""
}

// itself finds what makes a password, pasted raw, a proper part of a DSN: then
// nothing tells it from a host, a user or a name that was meant so.
var itself = regexp.MustCompile(`(?i)(^|[\s&?'])(user|host|hostaddr|port|dbname|database|pool_name|schema|target_session_attrs|[a-z_]*(conns|limit|timeout|time|lifetime|jitter|grace|delay|attempts|capacity|size|threshold|idle|interval|count))\s*=|^\s*postgres(ql)?://|^\s*\d{0,5}\s*($|[/?,])`)

func isDSNItself(password string) bool { return itself.MatchString(password) }
