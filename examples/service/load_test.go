package main

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// load are clients that send transfers, each under a key of its own, and read
// accounts in between.
type load struct {
	url    string
	client *http.Client
	ended  atomic.Bool // no new transfers
	wg     sync.WaitGroup

	mu      sync.Mutex
	booked  map[string]transfer // answered with 200 or 201
	refused int                 // nobody listened
	later   int                 // answered with 503
	wrong   []string            // anything else
}

func startLoad(t *testing.T, url string, clients int) *load {
	kept := &http.Transport{MaxIdleConnsPerHost: clients}
	l := &load{url: url, client: &http.Client{Transport: kept}, booked: map[string]transfer{}}
	for c := range clients {
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			for i := 0; !l.ended.Load(); i++ {
				from := int64(3 + (c+i)%8) // 1 and 2 are left alone
				l.insist(transfer{Key: fmt.Sprintf("client-%d-%d", c, i), From: from, To: 3 + (from-2)%8, Cents: int64(1 + i%90)})
				if i%4 == 0 {
					l.look(from)
				}
			}
		}()
	}
	t.Cleanup(func() { l.end(); kept.CloseIdleConnections() })
	return l
}

// end lets each client finish what it has begun.
func (l *load) end() {
	l.ended.Store(true)
	l.wg.Wait()
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.booked)
}

// insist sends a transfer until it is answered with something else than 503.
func (l *load) insist(t transfer) {
	for giveUp := time.Now().Add(time.Minute); l.send(t) == http.StatusServiceUnavailable; {
		if time.Now().After(giveUp) {
			l.note(&l.wrong, fmt.Sprintf("%s: answered with 503 for a minute", t.Key))
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (l *load) note(list *[]string, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*list = append(*list, text)
}

func (l *load) send(t transfer) (status int) {
	body, _ := json.Marshal(t)
	req, err := http.NewRequest("POST", l.url+"/transfers", bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	req.Header.Set("Idempotency-Key", t.Key)
	var answer transfer
	status, err = l.ask(req, &answer)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		l.refused++
	case err != nil:
		l.wrong = append(l.wrong, fmt.Sprintf("%s: dropped: %v", t.Key, err))
	case status == http.StatusServiceUnavailable:
		l.later++
	case status != http.StatusOK && status != http.StatusCreated || answer != t:
		l.wrong = append(l.wrong, fmt.Sprintf("%s: %d %+v", t.Key, status, answer))
	default:
		l.booked[t.Key] = t
	}
	return status
}

func (l *load) look(id int64) {
	req, err := http.NewRequest("GET", fmt.Sprintf("%s/accounts/%d", l.url, id), nil)
	if err != nil {
		panic(err)
	}
	var a account
	status, err := l.ask(req, &a)
	if err != nil && !errors.Is(err, syscall.ECONNREFUSED) || err == nil &&
		status != http.StatusServiceUnavailable && (status != http.StatusOK || a.ID != id || a.Cents < 0) {
		l.note(&l.wrong, fmt.Sprintf("account %d: %d %+v %v", id, status, a, err))
	}
}

// ask sends a request; an answer of 200 or 201 is decoded.
func (l *load) ask(req *http.Request, into any) (status int, err error) {
	resp, err := l.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode < 300 {
		err = json.NewDecoder(resp.Body).Decode(into)
	}
	return resp.StatusCode, err
}

// check compares what the clients were told with what is in the database: each
// transfer that was confirmed is there once, no other is, and the balances are
// what these make of them.
func (l *load) check(t *testing.T, db *sql.DB) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, text := range l.wrong {
		t.Errorf("a wrong answer: %s", text)
	}
	balances, moved := map[int64]int64{}, map[int64]int64{}
	for id := range int64(10) {
		moved[id+1] = 1000000
	}
	found := map[string]transfer{}
	each(t, db, "SELECT key, from_account, to_account, cents FROM transfers", func(rows *sql.Rows) error {
		var row transfer
		err := rows.Scan(&row.Key, &row.From, &row.To, &row.Cents)
		found[row.Key] = row
		moved[row.From] -= row.Cents
		moved[row.To] += row.Cents
		return err
	})
	each(t, db, "SELECT id, cents FROM accounts", func(rows *sql.Rows) error {
		var id, cents int64
		err := rows.Scan(&id, &cents)
		balances[id] = cents
		return err
	})
	for key, row := range l.booked {
		if found[key] != row {
			t.Errorf("confirmed %+v, found %+v", row, found[key])
		}
	}
	if len(found) != len(l.booked) {
		t.Errorf("%d transfers were confirmed, %d are there", len(l.booked), len(found))
	}
	if !maps.Equal(balances, moved) {
		t.Errorf("balances %v, by the transfers %v", balances, moved)
	}
	t.Logf("%d transfers, %d answers of 503, %d refused", len(l.booked), l.later, l.refused)
}

func each(t *testing.T, db *sql.DB, query string, f func(*sql.Rows) error) {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}
