package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// processorTime is what a process and its descendants have used so far, user and
// system, in nanoseconds as the scheduler counts them: the times in
// /proc/PID/stat come in steps of 10 ms. Threads that have ended are missed;
// neither nginx's and HAProxy's nor Go's end while they work.
func processorTime(pid int) (time.Duration, error) {
	family, err := descendants(pid)
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, id := range family {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", id))
		if err != nil {
			return 0, err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				continue // The thread has ended.
			}
			ran, _, _ := bytes.Cut(text, []byte(" "))
			ns, err := strconv.ParseInt(string(ran), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", file, err)
			}
			sum += time.Duration(ns)
		}
	}
	if sum == 0 {
		return 0, fmt.Errorf("process %d is gone, or the kernel keeps no times in /proc/PID/task/*/schedstat", pid)
	}
	return sum, nil
}

// descendants are a process, its children, theirs and so on.
func descendants(pid int) ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	parents := make(map[int]int)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // It has ended.
		}
		// The name, in brackets, may hold anything: PID (NAME) STATE PARENT ...
		id, rest, _ := bytes.Cut(text, []byte(" ("))
		fields := bytes.Fields(rest[bytes.LastIndexByte(rest, ')')+1:])
		if len(fields) < 2 {
			continue
		}
		child, _ := strconv.Atoi(string(id))
		parents[child], _ = strconv.Atoi(string(fields[1]))
	}
	var family []int
	for id := range parents {
		for ancestor := id; ancestor > 1; ancestor = parents[ancestor] {
			if ancestor == pid {
				family = append(family, id)
				break
			}
		}
	}
	return family, nil
}
