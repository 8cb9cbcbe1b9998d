package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"charm.land/bubbles/v2/progress"
	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
)

// view is the live picture of a load on a terminal. It reads no keys: Ctrl-C
// comes as the signal that it is.
type view struct {
	program *tea.Program
	sc      *screen
	ended   chan struct{}
}

// startView returns nil if the output is not a terminal.
func startView(r *runner, loop string) *view {
	f := terminalOf(r.sc.w)
	if f == nil {
		return nil
	}
	m := picture{
		title:  fmt.Sprintf("%s, %d users, %s", r.work, r.f.users, loop),
		length: r.f.duration, limit: r.target.limit, tally: r.tally, width: 80,
		bar: progress.New(progress.WithoutPercentage(), progress.WithColors(lipgloss.Color("#3d8bd9"), lipgloss.Color("#4fd1a1"))),
	}
	v := &view{sc: r.sc, ended: make(chan struct{}), program: tea.NewProgram(m, tea.WithContext(context.Background()),
		tea.WithInput(nil), tea.WithOutput(f), tea.WithoutSignalHandler(), tea.WithFPS(10))}
	go func() {
		defer close(v.ended)
		_, _ = v.program.Run()
	}()
	v.sc.liveView(func(line string) { v.program.Println(line) })
	return v
}

func (v *view) show(s sample) { v.program.Send(s) }

// end leaves the last picture where it is.
func (v *view) end() {
	v.program.Quit()
	<-v.ended
	v.sc.liveView(nil)
}

// picture is the state of a view: bubbletea's model.
type picture struct {
	title  string
	length time.Duration
	limit  int
	width  int
	tally  *tally
	bar    progress.Model

	now  sample
	seen bool
	most time.Duration // the highest p99 of an interval
}

func (m picture) Init() tea.Cmd { return nil }

func (m picture) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width = msg.Width
	case sample:
		m.now, m.seen = msg, true
		m.most = max(m.most, msg.P99)
	}
	return m, nil
}

var (
	bold  = lipgloss.NewStyle().Bold(true)
	faint = lipgloss.NewStyle().Faint(true)
	alert = lipgloss.NewStyle().Foreground(lipgloss.Color("1"))
)

const mostKinds = 5 // of errors

func (m picture) View() tea.View {
	var lines []string
	row := func(name, text string) {
		lines = append(lines, fmt.Sprintf("  %s %s", faint.Render(fmt.Sprintf("%-9s", name)), text))
	}
	share := min(1, m.now.At.Seconds()/m.length.Seconds())
	m.bar.SetWidth(max(10, min(60, m.width-30)))
	lines = append(lines, "", bold.Render(m.title),
		fmt.Sprintf("  %s %3.0f%%  %s of %s", m.bar.ViewAs(share), 100*share, short(m.now.At.Round(100*time.Millisecond)), brief(m.length)))
	if m.seen {
		s := m.now
		row("rate", fmt.Sprintf("%s calls/s   %s calls   %s failed", grouped(int64(s.rate())), grouped(m.tally.calls.Load()), grouped(m.tally.failed.Load())))
		row("latency", fmt.Sprintf("p50 %s   p99 %s   highest p99 %s", short(s.P50), short(s.P99), short(m.most)))
		row("pool", fmt.Sprintf("%s in use %d   idle %d   waiting %d   opening %d", gauge(s.InUse, m.limit, 20), s.InUse, s.Idle, s.Waiting, s.Opening))
		sessions := fmt.Sprintf("%s %d sessions, limit %d", gauge(s.Sessions, m.limit, 20), s.Sessions, m.limit)
		if s.Sessions < 0 {
			sessions = alert.Render("away")
		}
		row("server", sessions+"   health "+s.Health)
	}
	for i, x := range m.tally.failureList() {
		if i == mostKinds {
			row("", "...")
			break
		}
		name := ""
		if i == 0 {
			name = "errors"
		}
		when := ""
		if x.inOutage {
			when = ", during the restart"
		}
		row(name, alert.Render(fmt.Sprintf("%s %s: %s%s", grouped(x.n), x.op, x.what, when)))
	}
	for i := range lines {
		lines[i] = lipgloss.NewStyle().MaxWidth(max(m.width, 20)).Render(lines[i])
	}
	return tea.NewView(strings.Join(lines, "\n") + "\n")
}

// gauge is a bar of n out of most.
func gauge(n, most, width int) string {
	full := 0
	if most > 0 {
		full = min(width, max(0, n)*width/most)
	}
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}
