/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "uart_frames.h"

#include <avr/interrupt.h>
#include <avr/io.h>
#include <util/crc16.h>

/* A frame ends with 1.75 ms of silence. The timer is a little ahead of it, so that a request following another slave's
 * answer by exactly that never counts as a part of it. Half microseconds. */
#define FRAME_GAP 3300

uint8_t frame[LARGEST_FRAME];
uint8_t answer[LARGEST_FRAME];

static uint8_t own_unit;
static volatile uint8_t received, answer_length, answer_position;
static volatile uint16_t crc, errors;
static volatile bool complete, damaged;

static void begin_frame(void)
{
    received = 0;
    crc = 0xFFFF;
    damaged = complete = false;
}

void frames_begin(uint8_t unit)
{
    own_unit = unit;
    begin_frame();
    DDRD |= _BV(2);
    UCSRA = _BV(U2X);
    UBRRH = 0;
    UBRRL = 16;
    UCSRC = _BV(URSEL) | _BV(UCSZ1) | _BV(UCSZ0);
    UCSRB = _BV(RXEN) | _BV(TXEN) | _BV(RXCIE);
    OCR1A = FRAME_GAP;
    TCCR1B = _BV(CS11);
}

ISR(USART_RXC_vect)
{
    bool framing_error = UCSRA & _BV(FE);
    uint8_t byte = UDR;
    if (complete)
        return;
    TCNT1 = 0;
    TIFR = _BV(OCF1A);
    TIMSK |= _BV(OCIE1A);
    crc = _crc16_update(crc, byte);
    if (framing_error || received == LARGEST_FRAME)
        damaged = true;
    else
        frame[received++] = byte;
}

ISR(TIMER1_COMPA_vect)
{
    TIMSK &= ~_BV(OCIE1A);
    /* The CRC over a frame and its own CRC is zero. */
    bool good = !damaged && received >= 4 && crc == 0;
    if (good && frame[0] == own_unit) {
        complete = true;
        return;
    }
    if (!good)
        errors++;
    begin_frame();
}

ISR(USART_UDRE_vect)
{
    UDR = answer[answer_position++];
    if (answer_position == answer_length) {
        UCSRB &= ~_BV(UDRIE);
        UCSRA |= _BV(TXC);
        UCSRB |= _BV(TXCIE);
    }
}

ISR(USART_TXC_vect)
{
    UCSRB &= ~_BV(TXCIE);
    PORTD &= ~_BV(2);
    answer_length = 0;
}

bool frame_complete(void)
{
    return complete;
}

uint8_t frame_length(void)
{
    return received;
}

void frame_done(void)
{
    cli();
    begin_frame();
    sei();
}

uint16_t frame_errors(void)
{
    cli();
    uint16_t count = errors;
    sei();
    return count;
}

void answer_send(uint8_t length)
{
    uint16_t check = 0xFFFF;
    for (uint8_t i = 0; i < length; i++)
        check = _crc16_update(check, answer[i]);
    answer[length++] = check;
    answer[length++] = check >> 8;
    answer_position = 0;
    answer_length = length;
    PORTD |= _BV(2);
    UCSRB |= _BV(UDRIE);
}

bool answer_sent(void)
{
    return answer_length == 0;
}
