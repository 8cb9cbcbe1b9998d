package main

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
)

// lines is the picture as text.
func (s *situation) lines() []string {
	at := s.At.Format("15:04:05")
	if s.Error != "" {
		return []string{at + "  no answer: " + s.Error}
	}
	usable := s.MaxConnections - s.Reserved
	lines := []string{fmt.Sprintf("%s  %s %d of %d connections in use (max_connections %d, %d reserved)",
		at, gauge(s.Sessions, usable, 20), s.Sessions, usable, s.MaxConnections, s.Reserved)}
	for _, w := range s.Warnings {
		lines = append(lines, "WARNING   "+w)
	}
	lines = append(lines, "", fmt.Sprintf("%-24s %-12s %-12s %8s %7s %5s %6s %6s %9s %9s",
		"application", "role", "database", "sessions", "active", "idle", "in tx", "waits", "longest", "in tx for"))
	for _, p := range s.Programs {
		lines = append(lines, fmt.Sprintf("%-24s %-12s %-12s %8d %7d %5d %6d %6d %9s %9s", clip(p.Application, 24), clip(p.Role, 12), clip(p.Database, 12),
			p.Sessions, p.Active, p.Idle, p.InTx, p.Waiting, orDash(p.LongestQuery), orDash(p.LongestTx)))
	}
	if len(s.Blocked) > 0 {
		lines = append(lines, "", fmt.Sprintf("%-9s %-24s %9s  %-24s %s", "blocked", "application", "for", "on", "by"))
	}
	for _, b := range s.Blocked {
		lines = append(lines, fmt.Sprintf("%-9d %-24s %9s  %-24s %s", b.PID, clip(b.Application, 24), seconds(b.Seconds), clip(b.Wait, 24), b.By))
	}
	return lines
}

func orDash(s float64) string {
	if s == 0 {
		return "-"
	}
	return seconds(s)
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// board is the live picture: bubbletea's model.
type board struct {
	server        string
	width, height int
	now           *situation
}

func (b board) Init() tea.Cmd { return nil }

func (b board) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		b.width, b.height = msg.Width, msg.Height
	case *situation:
		b.now = msg
	}
	return b, nil
}

func (b board) View() tea.View {
	lines := []string{bold.Render("pgpooled watch  ") + b.server + faint.Render("  Ctrl-C ends it")}
	if b.now != nil {
		for _, line := range b.now.lines() {
			switch {
			case strings.HasPrefix(line, "WARNING"), b.now.Error != "":
				line = alert.Render(line)
			case strings.HasPrefix(line, "application"), strings.HasPrefix(line, "blocked"):
				line = faint.Render(line)
			}
			lines = append(lines, line)
		}
	}
	if b.height > 0 && len(lines) > b.height {
		lines = append(lines[:b.height-1], faint.Render("..."))
	}
	if b.width > 0 {
		for i := range lines {
			lines[i] = lipgloss.NewStyle().MaxWidth(b.width).Render(lines[i])
		}
	}
	v := tea.NewView(strings.Join(lines, "\n"))
	v.AltScreen = true
	return v
}
