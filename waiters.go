package pgpooled

import "time"

// delivery is what ends a wait: a session that is already leased to the
// waiter's lease, or the reason why there will be none.
type delivery struct {
	s   *session
	err error
}

// waiter is a lease in line. pool.mu decides between "delivered" and
// "cancelled": whoever takes it out of the line, by clearing queued, either
// sends the one delivery or is the caller that gave up.
type waiter struct {
	prev, next *waiter
	queued     bool
	lease      *lease
	since      time.Time // when the call came, also when it stands in line again
	joined     time.Time // when it last joined the line
	counted    bool      // as a call that had to wait

	ch chan delivery // one delivery at most, never blocks the sender

	// Of the last wait, once it is over.
	waited time.Duration
	away   bool  // there was an outage meanwhile
	last   error // of connecting
}

// waiter puts the lease in line, each time with the same waiter: it waits for
// one session at a time.
func (l *lease) waiter(since, now time.Time) *waiter {
	if l.wait == nil {
		l.wait = &waiter{lease: l, ch: make(chan delivery, 1)}
	}
	l.wait.since, l.wait.joined = since, now
	return l.wait
}

// answerLocked ends a wait.
func (p *pool) answerLocked(w *waiter, d delivery, now time.Time) {
	p.leaveLocked(w, now)
	w.ch <- d
}

func (p *pool) leaveLocked(w *waiter, now time.Time) {
	p.waiters.remove(w)
	w.waited = max(0, now.Sub(w.joined))
	w.away, w.last = p.outage.during(w.since), p.outage.last
	p.counts.waitTime += w.waited
}

// failAllLocked ends every wait.
func (p *pool) failAllLocked(err error) {
	now := time.Now()
	for w := p.waiters.first; w != nil; w = p.waiters.first {
		p.answerLocked(w, delivery{err: err}, now)
	}
}

// endWaitsLocked ends the waits that have taken pool_timeout: those of the first
// in line.
func (p *pool) endWaitsLocked(now time.Time) {
	limit := p.limits.timeout
	for w := p.waiters.first; w != nil && limit > 0; w = p.waiters.first {
		if until := w.since.Add(limit); now.Before(until) {
			p.wakeByLocked(until)
			return
		}
		p.waitedInVainLocked(w.since)
		err := p.timeoutLocked(w.since, nil)
		p.counts.timeouts++
		p.answerLocked(w, delivery{err: err}, now)
	}
}

// waiterList is the line: a doubly linked list, so that giving up is as cheap
// as being served.
type waiterList struct {
	first, last *waiter
	n           int
}

// push adds a waiter at the end; one that comes again, because its session was
// dead, gets the place back that its age gives it.
func (l *waiterList) push(w *waiter) {
	w.queued = true
	l.n++
	after := l.last
	for after != nil && after.since.After(w.since) {
		after = after.prev
	}
	w.prev = after
	if after == nil {
		w.next, l.first = l.first, w
	} else {
		w.next, after.next = after.next, w
	}
	if w.next == nil {
		l.last = w
	} else {
		w.next.prev = w
	}
}

func (l *waiterList) remove(w *waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		l.last = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
	l.n--
}

// sessionList is the sessions in use, the one taken first at the head.
type sessionList struct {
	first, last *session
	n           int
}

func (l *sessionList) push(s *session) {
	if l.last == nil {
		l.first = s
	} else {
		s.prev, l.last.next = l.last, s
	}
	l.last = s
	l.n++
}

func (l *sessionList) remove(s *session) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		l.first = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		l.last = s.prev
	}
	s.prev, s.next = nil, nil
	l.n--
}
