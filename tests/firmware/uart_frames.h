/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * MODBUS RTU frames over the UART of an ATmega32A at 16 MHz, 115200 baud 8N1, RS-485 driver enabled by PD2.
 * Whatever is not a whole frame to this unit is dealt with in the interrupts: requests to others and their answers may
 * follow each other by the shortest gap without costing this unit its own. */
#ifndef UART_FRAMES_H
#define UART_FRAMES_H

#include <stdbool.h>
#include <stdint.h>

enum { LARGEST_FRAME = 255 };

extern uint8_t frame[LARGEST_FRAME]; /* a request to this unit, while frame_complete() */
extern uint8_t answer[LARGEST_FRAME];

void frames_begin(uint8_t unit);
bool frame_complete(void);
uint8_t frame_length(void);
void frame_done(void);            /* the next one may come */
uint16_t frame_errors(void);      /* damaged frames so far */
void answer_send(uint8_t length); /* appends the CRC */
bool answer_sent(void);

#endif
