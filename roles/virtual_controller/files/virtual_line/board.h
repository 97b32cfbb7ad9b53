/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One controller board: an ATmega32A in libsimavr, its memories on disk, its power and its reset line. */
#ifndef BOARD_H
#define BOARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <simavr/avr_extint.h>
#include <simavr/avr_uart.h>
#include <simavr/sim_avr.h>

enum {
    FLASH_SIZE = 32768,
    EEPROM_SIZE = 1024,
    PAGE_SIZE = 128,
    HFUSE_EESAVE = 1 << 3, /* programmed (0): a chip erase keeps the EEPROM */
};

struct wire;

struct board {
    const char *name;
    const char *directory;
    unsigned unit;
    int index;
    struct wire *wire;

    uint8_t *flash;  /* both mapped from the files: on disk whatever happens to this process */
    uint8_t *eeprom;
    uint8_t lfuse, hfuse, lock;
    int fuses_file;

    avr_t *avr;
    avr_uart_t *uart;
    avr_extint_t *extint;
    avr_irq_t *uart_input;
    unsigned megahertz;
    uint64_t boot_cycle, boot_time;

    bool powered;
    bool held_in_reset;       /* by the programmer */
    bool programming_enabled; /* the chip accepted "programming enable" and has not lost power since */

    bool silent;         /* fault: runs, but its transmitter does not reach the line */
    bool discard_writes; /* fault: write requests are acknowledged on its behalf and never reach it */

    uint64_t boots, uart_received, uart_sent;
};

/* Opens (or makes, with the firmware and the unit id) the memories and boots the board. */
bool board_open(struct board *board, const char *firmware, char *error, size_t size);

void board_power(struct board *board, bool on);
void board_hold_in_reset(struct board *board, bool hold);
void board_reset(struct board *board);

void board_run_until(struct board *board, uint64_t time);
void board_hear(struct board *board, uint8_t byte);

const char *board_mcu_state(const struct board *board);
bool board_runs(const struct board *board);
void board_save_fuses(struct board *board);

#endif
