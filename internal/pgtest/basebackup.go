package pgtest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// notCopied are folders whose content belongs to the running server: its WAL is
// streamed, the rest is made anew. The list: PostgreSQL manual, "Making a base
// backup using the low level API".
var notCopied = map[string]bool{
	"pg_wal": true, "pg_replslot": true, "pg_dynshmem": true, "pg_notify": true,
	"pg_serial": true, "pg_snapshots": true, "pg_stat_tmp": true, "pg_subtrans": true,
}

// copyFrom fills the data directory with a copy of primary's that will stream
// from it; a replication slot keeps what the copy has not had yet. It does what
// pg_basebackup does, which is a client's program: not every server has it.
func (s *Server) copyFrom(ctx context.Context, primary *Server) error {
	var b [5]byte
	_, _ = rand.Read(b[:]) // never fails
	slot := "sb_" + hex.EncodeToString(b[:])
	label, err := primary.backup(ctx, slot, func() error { return s.copyFiles(primary.dataDir()) })
	if err != nil {
		return fmt.Errorf("pgtest: base backup: %w", err)
	}
	// The last line wins. A copy that is promoted has no standby to wait for. A
	// standby that has just lost its primary may sleep for the interval before it
	// heeds a promotion: five seconds are the default.
	follow := fmt.Sprintf("primary_conninfo = 'host=%s port=%d user=postgres'\nprimary_slot_name = '%s'\n"+
		"synchronous_standby_names = ''\nwal_retrieve_retry_interval = '100ms'\n",
		primary.sock, primary.port, slot)
	err = errors.Join(s.append("backup_label", label), s.append("standby.signal", ""), s.append("postgresql.auto.conf", follow))
	if err != nil {
		return fmt.Errorf("pgtest: base backup: %w", err)
	}
	return nil
}

// backup has the server ready to be copied while copying runs and returns what
// belongs into the copy's backup_label. The slot is made first.
func (s *Server) backup(ctx context.Context, slot string, copying func() error) (label string, err error) {
	conn, err := s.admin.Conn(ctx) // start and stop belong to one session
	if err != nil {
		return "", err
	}
	defer conn.Close()
	var version int
	if err := conn.QueryRowContext(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return "", err
	}
	begin, end := "SELECT pg_backup_start('pgtest', true)", "SELECT labelfile FROM pg_backup_stop(false)"
	if version < 150000 {
		begin, end = "SELECT pg_start_backup('pgtest', true, false)", "SELECT labelfile FROM pg_stop_backup(false)"
	}
	if _, err := conn.ExecContext(ctx, "SELECT pg_create_physical_replication_slot('"+slot+"', true)"); err != nil {
		return "", err
	}
	if _, err := conn.ExecContext(ctx, begin); err != nil {
		return "", err
	}
	copied := copying()
	var text sql.NullString
	err = conn.QueryRowContext(ctx, end).Scan(&text)
	return text.String, errors.Join(copied, err)
}

// copyFiles copies a data directory into ours. What vanishes meanwhile the WAL
// takes care of.
func (s *Server) copyFiles(from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		to := filepath.Join(s.dataDir(), rel)
		top, below, _ := strings.Cut(filepath.ToSlash(rel), "/")
		switch {
		case strings.HasPrefix(rel, "postmaster.") || !d.IsDir() && !d.Type().IsRegular():
			return nil
		case below != "" && notCopied[top] && d.IsDir():
			return filepath.SkipDir
		case below != "" && notCopied[top]:
			return nil
		case d.IsDir():
			err = os.MkdirAll(to, 0o700)
		default:
			if err = copyFile(path, to); errors.Is(err, fs.ErrNotExist) {
				return nil
			}
		}
		if err != nil {
			return err
		}
		return s.owner.chown(to)
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// append adds to a file of the data directory, which need not be there.
func (s *Server) append(name, text string) error {
	path := filepath.Join(s.dataDir(), name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close(), s.owner.chown(path))
}
