package pgpooled

import (
	"database/sql/driver"
	"errors"

	"github.com/lib/pq"
)

var errUnreplicated = errors.New("the wait for synchronous replication was ended: it is committed on this server, perhaps on no standby")

// watchNotices listens for the one notice that changes what success means: the
// server says "done" after the wait for its standbys was cut short, by an
// operator or by a shutdown. A caller's own handler is called as well.
func (s *session) watchNotices() {
	if s.wire == nil {
		return // not lib/pq's
	}
	next := pq.NoticeHandler(s.base)
	s.notices = next
	pq.SetNoticeHandler(s.base, func(n *pq.Error) {
		if n.Routine == "SyncRepWaitForLSN" {
			s.unreplicated.Store(true)
		}
		if next != nil {
			next(n)
		}
	})
}

// lend gives lib/pq's connection to the caller, with no handler on it but the
// caller's. The next call through database/sql listens again.
func (s *session) lend() driver.Conn {
	if s.wire != nil && !s.intr.raw {
		pq.SetNoticeHandler(s.base, s.notices)
	}
	s.intr.used, s.intr.raw = true, true
	return s.base
}

// watchAgain listens again after the caller had lib/pq's connection.
func (i *interceptor) watchAgain() {
	if i.raw {
		i.raw = false
		i.s.watchNotices()
		if i.cache != nil {
			i.planChanged(changesTables) // whatever was run there
			i.cache.begun = true
		}
	}
}

// clearHandlers removes what a caller set on lib/pq's connection.
func (s *session) clearHandlers() {
	if s.wire == nil {
		return
	}
	pq.SetNoticeHandler(s.base, nil)
	pq.SetNotificationHandler(s.base, nil)
	s.intr.raw = false
	s.watchNotices()
}
