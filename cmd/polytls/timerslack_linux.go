package main

import (
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// timerSlack is how much later than asked for a timer of a server may wake a
	// thread, in nanoseconds; Linux has 50 µs.
	timerSlack = 2_000_000
	// timerSlackSet is in the environment once the program was started again.
	timerSlackSet = "POLYTLS_TIMER_SLACK_SET"
)

// setTimerSlack starts a server's program again with another timer slack, in the
// same process. Go's monitor thread sleeps 20 µs at a time as long as calls of C or
// of the system take that long, as handshakes do, and needed 8 % of the processor
// time of a short connection (docs/PERFORMANCE.md). The slack makes its sleeps
// longer. The thread inherits it from the one that starts the program: in main it is
// too late.
//
// A slack that is as large already, as TimerSlackNSec of systemd sets it, is left
// alone. Where the program cannot be started again it goes on as it is.
func setTimerSlack(args []string) {
	if os.Getenv(timerSlackSet) != "" {
		os.Unsetenv(timerSlackSet)
		return
	}
	command := slices.IndexFunc(args, func(a string) bool { return !strings.HasPrefix(a, "-") })
	if command < 0 || args[command] != "serve" && args[command] != "proxy" {
		return
	}
	// Not /proc/self/exe, which would become the process's name.
	program, err := os.Executable()
	if err != nil || !names(os.Args[0], program) {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || slack >= timerSlack {
		return
	}
	if unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlack, 0, 0, 0) != nil {
		return
	}
	_ = syscall.Exec(program, os.Args, append(os.Environ(), timerSlackSet+"=1"))
	// Zero is what it was when the thread began.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0)
}

// names reports whether a command is that of the program. The one that the system
// knows is the loader where a program was started by it, with the program's path as
// an argument that is gone: the loader would take the next for the program.
func names(command, program string) bool {
	path, err := exec.LookPath(command)
	if err != nil {
		return false
	}
	one, err := os.Stat(path)
	if err != nil {
		return false
	}
	two, err := os.Stat(program)
	return err == nil && os.SameFile(one, two)
}
