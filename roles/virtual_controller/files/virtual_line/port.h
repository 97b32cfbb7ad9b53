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

struct port {
    const char *link;
    int master;       /* -1: unplugged */
    bool in_use;      /* somebody has the other side open */
    unsigned opened;  /* how often somebody opened it while nobody had */
    char device[64];
};

/* Makes the port and its link. What a simulator left there is replaced, anything else is not: returns false with a
 * message in error. */
bool port_plug(struct port *port, char *error, size_t size);

/* Removes link and device: whoever has it open gets EIO, as with a USB adapter that was pulled out. */
void port_unplug(struct port *port);

/* Bytes that came in; 0 = none, or nobody is there any more (in_use says which). */
size_t port_read(struct port *port, uint8_t *bytes, size_t size);

/* Bytes nobody is there for are lost, as on a wire. Returns how many went out or were lost; the rest is for later. */
size_t port_write(struct port *port, const uint8_t *bytes, size_t count);

/* A closed PTY reports a hangup at every poll, so closed ports are left out of the main poll and asked separately now and
 * then; this takes the answer of that poll. */
bool port_is_closed(const struct port *port);
void port_notice_opening(struct port *port, short revents);

#endif
