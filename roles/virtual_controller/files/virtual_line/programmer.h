/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A simulated Arduino Uno with the ArduinoISP sketch: STK500v1 on a serial port of its own, SPI to one board.
 * Driven by events: nothing here waits, so that a slow (paced) programmer holds up neither the line nor other boards.
 * Times are nanoseconds of the wall clock. */
#ifndef PROGRAMMER_H
#define PROGRAMMER_H

#include "board.h"
#include "port.h"

#include <stdbool.h>
#include <stdint.h>

enum programmer_event { EVENT_PAGE, EVENT_ERASE, EVENT_EEPROM, EVENT_ENTER, EVENT_LEAVE, EVENT_FUSE, EVENTS };
extern const char *const programmer_event_names[EVENTS];

/* Something that happens at the so many-th event of a kind; left == 0: not armed. */
struct trigger {
    enum programmer_event event;
    unsigned left;
};

struct programmer {
    struct port port; /* port.link == NULL: the board has no programmer */
    struct board *board;

    unsigned baudrate;     /* 0: not paced */
    bool realistic_delays; /* the sketch's own delays after page and EEPROM writes */
    unsigned autoreset;    /* ms an Uno is deaf after its port was opened (and its target released); 0: no reset */

    uint8_t received[8192]; /* not yet taken by the sketch */
    unsigned received_first, received_count;
    uint64_t receiver_free, next_byte; /* when the wire has carried the byte before / the first of received */
    uint8_t command[300];
    unsigned command_length;
    uint64_t command_started;
    uint8_t answer[4096];
    unsigned answer_first, answer_count;
    uint64_t sender_free;
    uint64_t busy_until, deaf_until;
    unsigned opened_seen;
    bool was_in_use;

    unsigned address; /* words */
    bool programming;
    uint8_t page[PAGE_SIZE];

    bool mute, dead, holding;
    struct trigger hold, power_cut, die;
    bool power_cut_half;
    bool wrong_signature;
    uint8_t signature[3];
    int corrupt_read, corrupt_write; /* flash addresses, -1: none */
    unsigned noise;

    uint64_t events[EVENTS], bytes_received, bytes_sent, no_sync, noise_hits;
};

void programmer_init(struct programmer *programmer, struct board *board);
void programmer_receive(struct programmer *programmer, uint64_t now);
void programmer_work(struct programmer *programmer, uint64_t now);
uint64_t programmer_next_event(const struct programmer *programmer); /* UINT64_MAX: only new bytes wake it */
bool programmer_has_room(const struct programmer *programmer);
void programmer_release(struct programmer *programmer);
void programmer_clear_faults(struct programmer *programmer);

#endif
