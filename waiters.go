package pgpooled

import "time"

// delivery is what ends a wait: a session that is already leased to the
// waiter's lease, or the reason why there will be none.
type delivery struct {
	s   *session
	err error
}

// waiter is a caller in line. pool.mu decides between "delivered" and
// "cancelled": whoever takes it out of the line, by clearing queued, either
// sends the one delivery or is the caller that gave up.
type waiter struct {
	prev, next *waiter
	queued     bool
	lease      *lease
	since      time.Time

	ch    chan delivery // one delivery at most, never blocks the sender
	timer *time.Timer   // nil until first needed
}

// spareLimit bounds how many waiters a pool keeps for later.
const spareLimit = 256

// waiterLocked makes a waiter, out of a spare one if there is: its channel and
// timer serve again.
func (p *pool) waiterLocked(l *lease, since time.Time) *waiter {
	w := p.spare
	if w == nil {
		w = &waiter{ch: make(chan delivery, 1)}
	} else {
		p.spare, w.next = w.next, nil
		p.spares--
	}
	w.lease, w.since = l, since
	return w
}

// spareLocked takes a waiter that is out of line and whose channel is empty.
func (p *pool) spareLocked(w *waiter) {
	if w.timer != nil {
		w.timer.Stop()
	}
	w.lease = nil
	if p.spares < spareLimit {
		w.next, p.spare = p.spare, w
		p.spares++
	}
}

// expireIn arms the waiter's timer.
func (w *waiter) expireIn(d time.Duration) <-chan time.Time {
	if w.timer == nil {
		w.timer = time.NewTimer(d)
	} else {
		w.timer.Reset(d)
	}
	return w.timer.C
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
