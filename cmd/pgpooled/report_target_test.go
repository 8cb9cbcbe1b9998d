package main

import (
	"os"
	"path/filepath"
	"testing"
)

// A report is moved to its name when it is through: that must not put a file in
// the place of a folder, a device or a link.
func TestReportReplacesOnlyFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	folder, file, link := filepath.Join(dir, "folder"), filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{folder, os.DevNull} {
		r, err := openReport(name)
		if err == nil {
			r.drop()
			t.Errorf("%s is taken for a report", name)
		}
	}
	for _, name := range []string{file, link, filepath.Join(dir, "new")} {
		r, err := openReport(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if name == link && filepath.Base(r.name) != "file" {
			t.Errorf("the link would be replaced, not what it leads to: %s", r.name)
		}
		r.drop()
	}
}
