// Package browsertest tests the pages of "awa ui" in a browser: Debian's chromium, which chromedp drives.
//
// It is a module of its own, so that the command requires nothing of this. AWA_SCREENSHOTS names a directory where the
// tests leave a picture of each page, in light and dark.
package browsertest
