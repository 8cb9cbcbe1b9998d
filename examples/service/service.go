package main

import (
	"context"
	"database/sql"
	"errors"
	"expvar"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// The states of a service, in this order.
const (
	starting int32 = iota
	ready
	draining
)

type service struct {
	cfg      config
	db       *sql.DB
	log      *slog.Logger
	state    atomic.Int32
	requests *expvar.Map // by pattern and status
}

func newService(cfg config, db *sql.DB, log *slog.Logger) *service {
	return &service{cfg: cfg, db: db, log: log, requests: new(expvar.Map).Init()}
}

// serve runs the service until ctx ends, and closes the pool. It listens before
// it migrates: liveness must not depend on how long that takes.
func (s *service) serve(ctx context.Context) error {
	api := &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      s.cfg.requestTimeout + writeMargin,
		IdleTimeout:       idleTimeout,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	admin := &http.Server{Handler: adminRoutes(), ReadHeaderTimeout: readHeaderTimeout, WriteTimeout: writeMargin}
	failed := make(chan error, 2)
	err := errors.Join(s.listen("api", s.cfg.listenAddr, api, failed), s.listen("admin", s.cfg.adminAddr, admin, failed))
	if err == nil {
		err = s.prepare(ctx)
	}
	if err == nil {
		s.state.Store(ready)
		s.log.Info("ready")
		select {
		case <-ctx.Done():
		case err = <-failed:
		}
	} else if ctx.Err() != nil {
		err = nil // told to stop before it was ready
	}
	return errors.Join(err, s.stop(api, admin))
}

func (s *service) listen(name, addr string, server *http.Server, failed chan<- error) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s.log.Info("listening", "server", name, "addr", l.Addr().String())
	go func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("%s: %w", name, err)
		}
	}()
	return nil
}

// stop ends the service in the order in which nothing that was accepted is lost.
// It takes at most DRAIN_DELAY + SHUTDOWN_TIMEOUT + the pool's close_timeout:
// terminationGracePeriodSeconds has to be longer than the sum.
func (s *service) stop(api, admin *http.Server) error {
	// 1. Not ready: load balancers stop sending, which takes them a moment. What
	// comes in that moment is served, and each connection ends with its answer.
	if s.state.Swap(draining) == ready {
		s.log.Info("draining", "delay", s.cfg.drainDelay.String())
		time.Sleep(s.cfg.drainDelay)
	}
	// 2. No new connections; requests under way finish.
	s.log.Info("shutting down", "timeout", s.cfg.shutdownTimeout.String())
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.shutdownTimeout)
	defer cancel()
	err := api.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("requests were cut: %w", err), api.Close())
	}
	// 3. Nobody uses the pool any more. Close says if it had to cut something.
	err = errors.Join(err, s.db.Close())
	// 4. The metrics last, so that the drain can be watched.
	return errors.Join(err, admin.Close())
}
