/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Everything of one process: a line, its boards and their programmers. */
#ifndef SITE_H
#define SITE_H

#include "board.h"
#include "programmer.h"
#include "wire.h"

enum { MAX_BOARDS = 32, MAX_FAULTS = 128 };

struct initial_fault {
    int board; /* index, -1: the line */
    const char *command;
};

struct site {
    struct wire wire;
    struct board boards[MAX_BOARDS];
    struct programmer programmers[MAX_BOARDS]; /* the one of the board with the same index */
    const char *firmware[MAX_BOARDS];
    int board_count;
    const char *control;
    const char *dev; /* the /dev in which the ports appear; NULL: this machine's */
    struct initial_fault faults[MAX_FAULTS];
    int fault_count;
    uint64_t lost; /* nanoseconds of wall clock that were not simulated */
};

/* Reads the configuration file; false with a message that names file, line and remedy. */
bool config_read(struct site *site, const char *path, char *error, size_t size);

#endif
