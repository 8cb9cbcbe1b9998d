package pgpooled

// foreign says what becomes of a key that belongs to another tool, or to libpq
// where lib/pq does not know it: lib/pq would send it to the server, which
// refuses it at best. In this order: a value in silent is dropped, since it asks
// for what happens anyway; if note is set (and the value is in noted, if that is
// set), the key is dropped and reported by Notices; else it is refused.
type foreign struct {
	silent []string
	note   string
	noted  []string
	refuse string
}

var (
	noMeaning = foreign{note: "has no meaning here and is left out"}
	prismaTLS = "is Prisma's; convert the PKCS #12 file to PEM and use sslcert and sslkey"
	jdbc      = func(instead string) foreign { return foreign{refuse: "is another tool's spelling; use " + instead} }
)

var foreignKeys = map[string]foreign{
	// Supabase, pgxpool and pgx, Prisma, node-postgres.
	"supa":                       noMeaning,
	"pool_health_check_period":   {note: "is left out: every session is looked at when it is handed out"},
	"pool_ping_timeout":          {note: "is left out: pings here have a limit of their own"},
	"default_query_exec_mode":    {note: "is left out; see statement_cache_capacity and pgbouncer"},
	"statement_cache_mode":       {note: "is left out; see statement_cache_capacity and pgbouncer"},
	"description_cache_capacity": {note: "is left out; see statement_cache_capacity"},
	"prefer_simple_protocol":     {note: "is left out; see binary_parameters and pgbouncer"},
	"min_read_buffer_size":       noMeaning,
	"single_use_connections":     noMeaning,
	"pgbouncer_mode":             {refuse: "use pgbouncer=true"},
	"sslidentity":                {refuse: prismaTLS},
	"sslpassword":                {refuse: "an encrypted client key cannot be used: decrypt it into a file of its own (openssl pkcs12 or openssl pkey) and use sslcert and sslkey"},
	"uselibpqcompat":             {silent: []string{"true"}, note: "has no meaning here and is left out"},
	"ssl":                        {refuse: "use sslmode (disable, require, verify-full …)"},

	// libpq's own that lib/pq would pass on to the server.
	"gssencmode":          {silent: []string{"disable"}, note: "is left out: there is no GSS encryption here", noted: []string{"prefer"}, refuse: "GSS encryption is not supported: must be disable or prefer"},
	"gsslib":              noMeaning,
	"gssdelegation":       {silent: []string{"0"}, refuse: "GSS delegation is not supported: must be 0"},
	"sslcompression":      {silent: []string{"0"}, note: "is left out: TLS compression is not supported"},
	"sslcertmode":         {silent: []string{"allow"}, refuse: "only allow is supported"},
	"sslcrl":              {refuse: "revocation lists are not supported, and ignoring one would be unsafe; leave it out"},
	"sslcrldir":           {refuse: "revocation lists are not supported, and ignoring one would be unsafe; leave it out"},
	"sslkeylogfile":       {refuse: "not supported; leave it out"},
	"requirepeer":         {refuse: "not supported, and ignoring it would be unsafe; leave it out"},
	"require_auth":        {refuse: "not supported, and ignoring it would be unsafe; use sslmode=verify-full to make sure of the server"},
	"requiressl":          {refuse: "use sslmode=require"},
	"tty":                 noMeaning,
	"authtype":            noMeaning,
	"servicefile":         {refuse: "not supported in a DSN; set the environment variable PGSERVICEFILE"},
	"scram_client_key":    {refuse: "not supported; use password"},
	"scram_server_key":    {refuse: "not supported; use password"},
	"oauth_issuer":        {refuse: "OAuth is not supported"},
	"oauth_client_id":     {refuse: "OAuth is not supported"},
	"oauth_scope":         {refuse: "OAuth is not supported"},
	"oauth_client_secret": {refuse: "OAuth is not supported"},

	// Other spellings of what lib/pq knows; the server would get, and log, them.
	"username": jdbc("user"),
	"pass":     jdbc("password"),
	"passwd":   jdbc("password"),
	"pwd":      jdbc("password"),
	"db":       jdbc("dbname"),
	"hostname": jdbc("host"),
	"server":   jdbc("host"),
	"uid":      jdbc("user"),

	// HikariCP, JDBC, and the pools of other languages.
	"maximumPoolSize":         jdbc("max_open_conns"),
	"minimumIdle":             jdbc("min_idle_conns"),
	"maxLifetime":             jdbc("conn_max_lifetime"),
	"idleTimeout":             jdbc("conn_max_idle_time"),
	"connectionTimeout":       jdbc("pool_timeout"),
	"keepaliveTime":           jdbc("keepalives_idle"),
	"poolName":                jdbc("pool_name"),
	"currentSchema":           jdbc("schema"),
	"loginTimeout":            jdbc("connect_timeout"),
	"tcpKeepAlive":            jdbc("keepalives"),
	"ApplicationName":         jdbc("application_name"),
	"targetServerType":        jdbc("target_session_attrs"),
	"prepareThreshold":        jdbc("statement_cache_capacity"),
	"pool":                    jdbc("max_open_conns"),
	"pool_size":               jdbc("max_open_conns"),
	"pool_max":                jdbc("max_open_conns"),
	"pool_min":                jdbc("min_idle_conns"),
	"pool_recycle":            jdbc("conn_max_lifetime"),
	"pool_mode":               jdbc("pgbouncer=true for a transaction pooler"),
	"max_overflow":            jdbc("max_open_conns"),
	"max_connections":         jdbc("max_open_conns"),
	"max_conns":               jdbc("max_open_conns"),
	"min_conns":               jdbc("min_idle_conns"),
	"max_idle":                jdbc("max_idle_conns"),
	"max_open":                jdbc("max_open_conns"),
	"max_lifetime":            jdbc("conn_max_lifetime"),
	"max_idle_time":           jdbc("conn_max_idle_time"),
	"max_client_conn":         jdbc("max_open_conns"),
	"connectionTimeoutMillis": jdbc("pool_timeout"),
	"idleTimeoutMillis":       jdbc("conn_max_idle_time"),
}
