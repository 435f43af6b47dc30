// Package trials tries tokenbroker's helpers with the tools that they are for, and with these
// tools' own libraries. It is a module of its own, for what it pulls in, and is run by make
// trials, outside CI; of the tools those that are installed are tried, and it is said aloud
// which are not.
package trials
