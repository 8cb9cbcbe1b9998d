package pgpooled

import (
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
	pq.SetNoticeHandler(s.base, func(n *pq.Error) {
		if n.Routine == "SyncRepWaitForLSN" {
			s.unreplicated.Store(true)
		}
		if next != nil {
			next(n)
		}
	})
}

// clearHandlers removes what a caller set on lib/pq's connection.
func (s *session) clearHandlers() {
	if s.wire == nil {
		return
	}
	pq.SetNoticeHandler(s.base, nil)
	pq.SetNotificationHandler(s.base, nil)
	s.watchNotices()
}
