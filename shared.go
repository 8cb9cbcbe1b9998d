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
	pool   *pool
	opener *opener
	refs   int // 0 = being closed
}

// attach makes a connector on a pool of its own, or on the one of its name.
func attach(op *opener) (*Connector, error) {
	cfg := op.cfg
	c := &Connector{cfg: cfg, opener: op, left: make(chan struct{})}
	if cfg.PoolName == "" {
		c.pool = openPool(op)
		c.leave = c.pool.close
		return c, nil
	}
	sharedPools.Lock()
	defer sharedPools.Unlock()
	sp := sharedPools.byName[cfg.PoolName]
	for sp != nil && sp.refs == 0 { // being closed: its sessions still count
		sharedPools.Unlock()
		<-sp.pool.done
		sharedPools.Lock()
		sp = sharedPools.byName[cfg.PoolName]
	}
	if sp == nil {
		sp = &sharedPool{pool: openPool(op), opener: op}
		sharedPools.byName[cfg.PoolName] = sp
	} else if !sp.agrees(op) {
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
	sharedPools.Unlock()
	if !last {
		return nil
	}
	err := sp.pool.close(grant)
	sharedPools.Lock()
	defer sharedPools.Unlock()
	delete(sharedPools.byName, name)
	return err
}

// agrees says whether a connector may share the pool: what lib/pq gets, the
// environment included, all settings and all options are the same. Functions
// cannot be compared, so those of two options always differ.
func (sp *sharedPool) agrees(op *opener) bool {
	a, b := sp.opener, op
	return reflect.DeepEqual(a.cfg.PQ, b.cfg.PQ) && a.cfg.FormatDSN() == b.cfg.FormatDSN() &&
		same(a.opts.dialer, b.opts.dialer) && same(a.opts.base, b.opts.base) &&
		a.opts.beforeConnect == nil && b.opts.beforeConnect == nil &&
		a.opts.afterConnect == nil && b.opts.afterConnect == nil &&
		a.opts.observer == nil && b.opts.observer == nil
}

// same compares two options; what cannot be compared differs.
func same(a, b any) bool {
	if a == nil || b == nil {
		return a == b
	}
	return reflect.TypeOf(a).Comparable() && reflect.TypeOf(b).Comparable() && a == b
}
