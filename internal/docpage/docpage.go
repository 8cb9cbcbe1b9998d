// Package docpage writes what a make target measured into a page of docs.
package docpage

import (
	"fmt"
	"os"
	"strings"
)

// Write puts text between the markers of a file that name the command.
func Write(file, command, text string) error {
	begin, end := "<!-- begin: "+command+" -->", "<!-- end: "+command+" -->"
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(b), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no markers %s and %s", file, begin, end)
	}
	return os.WriteFile(file, []byte(before+begin+"\n"+text+end+after), 0o644)
}
