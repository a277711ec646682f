//go:build !linux && !darwin

package main

import "os"

// terminalSize returns whether the file is most likely a terminal. Its size is not known here.
func terminalSize(file *os.File) (width, height int, ok bool) {
	info, err := file.Stat()
	return 0, 0, err == nil && info.Mode()&os.ModeCharDevice != 0
}
