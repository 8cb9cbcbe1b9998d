package pgpooled

import (
	"reflect"
	"sync"
	"time"
)

// sharedPools are the pools that have a pool_name, by that name.
var sharedPools = struct {
	sync.Mutex // guards byName and the references of its pools
	byName     map[string]*sharedPool
}{byName: make(map[string]*sharedPool)}

// sharedPool is one pool under several connectors.
type sharedPool struct {
	pool *pool
	dsn  string // in memory only: it contains the password
	opts options
	refs int
}

// attach makes a connector on a pool of its own, or on the one of its name.
func attach(op *opener) (*Connector, error) {
	cfg, o := op.cfg, op.opts
	c := &Connector{cfg: cfg, opener: op}
	if cfg.PoolName == "" {
		c.pool = openPool(op)
		c.leave = c.pool.close
		return c, nil
	}
	sharedPools.Lock()
	defer sharedPools.Unlock()
	sp := sharedPools.byName[cfg.PoolName]
	if sp == nil {
		sp = &sharedPool{pool: openPool(op), dsn: cfg.FormatDSN(), opts: o}
		sharedPools.byName[cfg.PoolName] = sp
	} else if sp.dsn != cfg.FormatDSN() || !same(sp.opts.dialer, o.dialer) || !same(sp.opts.base, o.base) ||
		o.beforeConnect != nil || o.afterConnect != nil {
		return nil, errPoolName
	}
	sp.refs++
	c.pool = sp.pool
	c.leave = func(grant time.Duration) error { return sp.leave(cfg.PoolName, grant) }
	return c, nil
}

// leave gives up one share; the last one closes the pool.
func (sp *sharedPool) leave(name string, grant time.Duration) error {
	sharedPools.Lock()
	sp.refs--
	last := sp.refs == 0
	if last {
		delete(sharedPools.byName, name)
	}
	sharedPools.Unlock()
	if !last {
		return nil
	}
	return sp.pool.close(grant)
}

// same compares two options; what cannot be compared differs.
func same(a, b any) bool {
	if a == nil || b == nil {
		return a == b
	}
	return reflect.TypeOf(a).Comparable() && reflect.TypeOf(b).Comparable() && a == b
}
