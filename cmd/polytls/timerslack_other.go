//go:build !linux

package main

// setTimerSlack does nothing on systems without timer slack.
func setTimerSlack([]string) {}
