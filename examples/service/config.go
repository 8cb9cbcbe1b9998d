package main

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// config is what the environment says. The pool's own settings are in
// DATABASE_URL and in PGPOOLED_* variables, which pgpooled reads.
type config struct {
	databaseURL string     // DATABASE_URL; has a secret, never printed
	listenAddr  string     // LISTEN_ADDR: the API and the probes
	adminAddr   string     // ADMIN_ADDR: metrics, not for the public
	logLevel    slog.Level // LOG_LEVEL: debug, info, warn or error

	startTimeout    time.Duration // START_TIMEOUT: to reach the database and migrate it
	requestTimeout  time.Duration // REQUEST_TIMEOUT: one request, its waits for the pool included
	drainDelay      time.Duration // DRAIN_DELAY: from "not ready" to the closed listener
	shutdownTimeout time.Duration // SHUTDOWN_TIMEOUT: for requests under way, after that
}

// The http.Server's timeouts. Reading and writing allow for slow clients on top
// of REQUEST_TIMEOUT; idle connections live longer than those of most load
// balancers (60 s), so that it is not us who closes first.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeMargin       = 10 * time.Second
	idleTimeout       = 75 * time.Second
)

func loadConfig(getenv func(string) string) (config, error) {
	var errs []error
	text := func(name, otherwise string) string {
		if v := getenv(name); v != "" {
			return v
		}
		return otherwise
	}
	duration := func(name, otherwise string) time.Duration {
		d, err := time.ParseDuration(text(name, otherwise))
		if err != nil || d < 0 {
			errs = append(errs, fmt.Errorf("%s is not a duration like %s", name, otherwise))
		}
		return d
	}
	c := config{
		databaseURL:     getenv("DATABASE_URL"),
		listenAddr:      text("LISTEN_ADDR", ":8080"),
		adminAddr:       text("ADMIN_ADDR", ":8081"),
		startTimeout:    duration("START_TIMEOUT", "2m"),
		requestTimeout:  duration("REQUEST_TIMEOUT", "5s"),
		drainDelay:      duration("DRAIN_DELAY", "5s"),
		shutdownTimeout: duration("SHUTDOWN_TIMEOUT", "10s"),
	}
	if c.databaseURL == "" {
		errs = append(errs, errors.New("DATABASE_URL is not set"))
	}
	if err := c.logLevel.UnmarshalText([]byte(text("LOG_LEVEL", "info"))); err != nil {
		errs = append(errs, errors.New("LOG_LEVEL is none of debug, info, warn, error"))
	}
	if c.startTimeout == 0 {
		errs = append(errs, errors.New("START_TIMEOUT must leave time to reach the database"))
	}
	if c.requestTimeout == 0 || c.shutdownTimeout < c.requestTimeout {
		errs = append(errs, fmt.Errorf("SHUTDOWN_TIMEOUT (%s) must leave time for one request (REQUEST_TIMEOUT, %s)", c.shutdownTimeout, c.requestTimeout))
	}
	return c, errors.Join(errs...)
}
