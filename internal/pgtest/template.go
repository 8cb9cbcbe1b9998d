package pgtest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// initdbArgs make the template; small WAL segments make it small. A change
// here gives the archive another name.
var initdbArgs = []string{"-N", "-U", "postgres", "--locale=C", "--encoding=UTF8", "-A", "trust", "--wal-segsize=1"}

// templateMu lets one goroutine at a time make the archive.
var templateMu sync.Mutex

// unpackTemplate fills data with a new cluster. The template is one archive
// file, so that it is either whole or not there: a clean-up of the temporary
// directory that took some of its files would otherwise give strange servers.
func unpackTemplate(ctx context.Context, bin string, own *owner, data string) error {
	name, err := templateName(ctx, bin, own)
	if err != nil {
		return err
	}
	templateMu.Lock()
	defer templateMu.Unlock()
	for try := 0; ; try++ {
		if ownFile(name) {
			if err = unpack(name, data, own); err == nil {
				return nil
			}
			_ = os.RemoveAll(data)
			_ = os.Remove(name)
		}
		if try == 2 {
			return fmt.Errorf("pgtest: template: %w", err)
		}
		if err = makeTemplate(ctx, bin, own, name); err != nil {
			return err
		}
	}
}

// templateName is the archive's path for this user, version and set of options.
func templateName(ctx context.Context, bin string, own *owner) (string, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return "", fmt.Errorf("pgtest: postgres --version: %w", err)
	}
	sum := sha256.Sum256([]byte(bin + "\n" + string(out) + "\n" + strings.Join(initdbArgs, " ") + "\n" + own.String()))
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("pgtest-templates-%d", os.Geteuid()))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("pgtest: %w", err)
	}
	if !ownFile(dir) {
		return "", fmt.Errorf("pgtest: %s belongs to somebody else: remove it or set TMPDIR", dir)
	}
	return filepath.Join(dir, hex.EncodeToString(sum[:8])+".tar"), nil
}

// makeTemplate runs initdb in a folder of its own and renames the finished
// archive into place: of several test programs that do this at once, the last
// one wins and all are right.
func makeTemplate(ctx context.Context, bin string, own *owner, name string) error {
	parent, err := filepath.Abs(os.TempDir()) // initdb runs elsewhere
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	dir, err := os.MkdirTemp(parent, "pgtest-initdb-")
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := own.chown(dir); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	data := filepath.Join(dir, "data")
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), append(initdbArgs, "-D", data)...)
	cmd.Env, cmd.Dir = serverEnv(), dir
	cmd.WaitDelay = time.Second
	own.apply(cmd)
	out, err := cmd.CombinedOutput()
	if err := own.noEntry(err, dir); err != nil {
		return err
	}
	if err != nil {
		return fmt.Errorf("pgtest: initdb: %w; it says:\n%s", err, bytes.TrimSpace(out))
	}
	f, err := os.CreateTemp(filepath.Dir(name), "new-")
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	err = errors.Join(pack(f, data), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("pgtest: template: %w", err)
	}
	return nil
}

func pack(w io.Writer, dir string) error {
	tw := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		h, err := tar.FileInfoHeader(fi, "")
		if err != nil {
			return err
		}
		h.Name = filepath.ToSlash(rel)
		if err := tw.WriteHeader(h); err != nil || fi.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_, err = tw.Write(b)
		return err
	})
	return errors.Join(err, tw.Close())
}

func unpack(name, dir string, own *owner) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("unexpected name %q", h.Name)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o700)
		} else {
			err = unpackFile(path, tr)
		}
		if err == nil {
			err = own.chown(path)
		}
		if err != nil {
			return err
		}
	}
}

func unpackFile(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
