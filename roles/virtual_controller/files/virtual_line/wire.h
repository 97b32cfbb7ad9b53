/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The serial line: every byte is heard by the master (the PTY) and by all boards but the one that sent it, at the pace
 * of the line's baud rate. Also the observer of what the master sends, and the line's faults.
 *
 * Times are nanoseconds of simulated time: the wall clock less what was lost when this process could not keep up. */
#ifndef WIRE_H
#define WIRE_H

#include "port.h"

#include <stdbool.h>
#include <stdint.h>

enum { MASTER = -1 }; /* the source of bytes that no board sent */
enum { UNITS = 256, WIRE_QUEUE = 8192 };

/* Boards hear a byte this much later than it was sent, so that boards stepped one after the other all still get it.
 * It is the same for every byte: gaps keep their length. */
#define HEARING_DELAY 100000u
#define MODBUS_GAP 1750000u

struct wire_byte {
    uint64_t time; /* when it starts (to boards) or is complete (to the master) */
    int16_t source;
    uint8_t byte;
};

struct wire_queue {
    struct wire_byte bytes[WIRE_QUEUE];
    unsigned first, count;
};

struct unit_traffic {
    uint64_t requests, write_requests;
    uint64_t first_request, last_request, longest_gap;
};

struct wire {
    struct port port;
    unsigned baudrate;
    uint64_t character_time;
    uint64_t time, slice_end;

    struct wire_queue to_boards, to_master;
    uint64_t master_free, last_activity, last_delivery;
    uint64_t talker_until;
    int talker;

    uint8_t frame[300]; /* what the master is sending now */
    unsigned frame_length;
    uint64_t frame_end;
    bool discard[UNITS]; /* write requests to these units are acknowledged and thrown away */
    int discard_for[UNITS]; /* in the name of this board */
    unsigned discards_active;

    unsigned noise_to_boards, noise_to_master; /* one byte in so many has a bit flipped; 0: none */

    struct unit_traffic units[UNITS];
    uint64_t bytes_from_master, bytes_to_master, bad_frames, gap_violations, collisions, discarded, noise_hits;
};

void wire_transmit(struct wire *wire, int source, uint8_t byte, uint64_t start);
void wire_read_master(struct wire *wire);
void wire_write_master(struct wire *wire);
void wire_close_frame_after_gap(struct wire *wire);
void wire_set_discard(struct wire *wire, unsigned unit, int board, bool discard);
void wire_reset_counters(struct wire *wire);
bool wire_busy(const struct wire *wire);

/* The next byte that starts before the given time, or NULL; index counts from the oldest. */
const struct wire_byte *wire_heard_before(const struct wire *wire, unsigned index, uint64_t time);
void wire_forget_before(struct wire *wire, uint64_t time);

#endif
