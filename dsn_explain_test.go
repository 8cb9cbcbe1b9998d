package pgpooled

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestSettingsSayWhereEachValueComesFrom(t *testing.T) {
	clearEnv(t)
	t.Setenv("PGUSER", "envuser")
	t.Setenv("PGCONNECT_TIMEOUT", "7")
	t.Setenv("PGPOOLED_POOL_TIMEOUT", "3s")
	c := mustParse(t, "postgres://:hush-hush@h1,h2:5433/shop?connection_limit=7&channel_binding=require&pgbouncer=true"+
		"&application_name=hush-hush&work_mem=64MB&my.own=hush&conn_max_lifetime=0&retry_mode=safe")
	c.ConnMaxIdleTime = time.Minute
	c.PQ.Database = "other"

	got := map[string]string{}
	for _, s := range c.Settings() {
		if _, again := got[s.Key]; again {
			t.Errorf("%s is there twice", s.Key)
		}
		got[s.Key] = strings.TrimSpace(fmt.Sprintf("%s %s %s %s", s.Value, s.Meaning, s.Origin, s.Name))
		if s.Hidden != (s.Value == "xxxxx") {
			t.Errorf("%+v: Hidden does not fit the value", s)
		}
		if strings.Contains(fmt.Sprintf("%+v", s), "hush") {
			t.Errorf("%s shows a secret", s.Key)
		}
	}
	for key, want := range map[string]string{
		"host":                     "h1,h2  dsn",
		"port":                     "5432,5433  dsn",
		"user":                     "envuser  environment PGUSER",
		"password":                 "xxxxx  dsn",
		"dbname":                   "other  program",
		"sslmode":                  "verify-full  derived channel_binding",
		"sslrootcert":              "system  derived channel_binding",
		"channel_binding":          "require  dsn",
		"application_name":         "xxxxx  dsn",
		"work_mem":                 "xxxxx  dsn",
		"xxxxx":                    "xxxxx  dsn", // my.own
		"max_open_conns":           "7  alias connection_limit",
		"max_idle_conns":           "as max_open_conns default",
		"pool_timeout":             "3s  environment PGPOOLED_POOL_TIMEOUT",
		"connect_timeout":          "7s  environment PGCONNECT_TIMEOUT",
		"conn_max_lifetime":        "0 no limit dsn",
		"conn_max_idle_time":       "1m  program",
		"retry_mode":               "safe  dsn",
		"close_timeout":            "5s  default",
		"pgbouncer":                "true  dsn",
		"statement_cache_capacity": "0 no cache derived pgbouncer",
	} {
		if got[key] != want {
			t.Errorf("%s: got %q, want %q", key, got[key], want)
		}
	}
	for _, p := range params {
		if _, ok := got[p.key]; !ok && !p.translated() {
			t.Errorf("%s is missing", p.key)
		}
	}
	if !reflect.DeepEqual(c.Clone().Settings(), c.Settings()) {
		t.Error("a clone has other settings")
	}
}
