/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A serial port that others open: the master side of a PTY behind a stable symbolic link. */
#ifndef PORT_H
#define PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { MAX_ALIASES = 4 };

struct port {
    const char *link;
    const char *aliases[MAX_ALIASES]; /* more names, links to the first */
    int alias_count;
    int dev;          /* the directory that relative names are in, while plugged */
    int master;       /* -1: unplugged */
    bool in_use;      /* somebody has the other side open */
    unsigned opened;  /* how often somebody opened it while nobody had */
    char device[64];
};

/* Makes the port and its links. What a simulator left there is replaced, anything else is not: returns false with a
 * message in error. dev is the /dev of another host (a container), where the port gets the owner and mode that a USB
 * adapter has there; NULL is this machine's. */
bool port_plug(struct port *port, const char *dev, char *error, size_t size);

/* Removes links and device: whoever has it open gets EIO, as with a USB adapter that was pulled out. */
void port_unplug(struct port *port);

/* Bytes that came in; 0 = none, or nobody is there any more (in_use says which). */
size_t port_read(struct port *port, uint8_t *bytes, size_t size);

/* Bytes nobody is there for are lost, as on a wire. Returns how many went out or were lost; the rest is for later. */
size_t port_write(struct port *port, const uint8_t *bytes, size_t count);

/* A closed PTY reports a hangup at every poll, so closed ports are left out of the main poll and asked separately now and
 * then; this takes the answer of that poll. */
bool port_is_closed(const struct port *port);
void port_notice_opening(struct port *port, short revents);

/* Makes the directory a path is in (or, with a slash at the end, the path itself), and those above it. */
bool make_directory_of(int base, const char *path, char *error, size_t size);

#endif
