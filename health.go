package pgpooled

import (
	"context"
	"database/sql"
	"time"
)

// Health is what [CheckHealth] found.
type Health struct {
	Healthy bool          // a Ping went through the pool to the server and back
	Latency time.Duration // how long that took, the wait for a session included
	Error   error         // why it did not, nil if healthy
	Pool    Stats         // the pool at that moment; zero if db is not pgpooled's
}

// CheckHealth pings the server through the pool. It takes no longer than ctx
// allows.
func CheckHealth(ctx context.Context, db *sql.DB) Health {
	start := time.Now()
	err := db.PingContext(ctx)
	h := Health{Healthy: err == nil, Latency: time.Since(start), Error: err}
	h.Pool, _ = StatsOf(db)
	return h
}
