/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A stand-in for the firmware published on 2025-09-24 less its fatal fault: what it was seen to do, faults included.
 *  - functions 3 and 6 only, no range checks;
 *  - amplitude at 0x0011, where the documents have the emergency stop, and everything behind it one register later; code
 *    that follows the documents is there as well, so that any non-zero write to 0x0011 latches the emergency stop bit;
 *  - sonicator n answers in block n + 1, its status one register early;
 *  - more than 61 registers overrun the buffer: no answer;
 *  - a frame ends after 10 ms, and bytes wait for the rest of it for ever: a stray byte costs the next request;
 *  - 30 ms after traffic to another slave it misses requests;
 *  - after more than 1 s without any traffic all stops and it is deaf until reset (it hears its first byte at any time). */
#include <avr/eeprom.h>
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>
#include <avr/wdt.h>
#include <stdbool.h>
#include <stdint.h>

enum { SONICATORS = 4, BUFFER = 128, LARGEST_BLOCK = 61, DEFAULT_UNIT = 2, DEFAULT_AMPLITUDE = 50 };
enum { FRAME_GAP_MS = 10, DEAF_TO_OTHERS_MS = 30, MAX_SILENCE_MS = 1000 };
enum { SYSTEM_STATUS = 0x00, ACTIVE_COUNT, ACTIVE_MASK, WATCHDOG_STATUS, COMM_ERRORS };
enum { GLOBAL_ENABLE = 0x10, GLOBAL_AMPLITUDE, EMERGENCY_STOP, SYSTEM_RESET, START_INHIBIT_MASK };
enum { DOCUMENTED_EMERGENCY_STOP = 0x11, SYSTEM_END = 0x20, BLOCKS_BASE = 0x100, BLOCKS_END = 0x420, STRIDE = 0x20 };
enum { START_STOP = 0x00, AMPLITUDE, POWER = 0x0F, FREQUENCY, STATUS_FLAGS, AMPLITUDE_ACTUAL };
#define RESET_KEY 0xA5C3

static uint16_t system_registers[SYSTEM_END];
static uint16_t sonicators[SONICATORS][STRIDE];
static uint8_t unit;
static bool reset_requested;

static volatile uint8_t buffer[BUFFER], received;
static volatile uint16_t quiet; /* ms since the last byte */
static volatile bool heard_any, deaf;
static volatile uint8_t others; /* ms for which traffic to another slave still makes it deaf */

ISR(USART_RXC_vect)
{
    uint8_t byte = UDR;
    quiet = 0;
    heard_any = true;
    if (!deaf && !others && received < BUFFER)
        buffer[received++] = byte;
}

ISR(TIMER2_COMP_vect)
{
    if (quiet <= MAX_SILENCE_MS)
        quiet++;
    if (others)
        others--;
}

static uint16_t crc(const volatile uint8_t *bytes, uint8_t count)
{
    uint16_t value = 0xFFFF;
    while (count--) {
        value ^= *bytes++;
        for (uint8_t bit = 0; bit < 8; bit++)
            value = value & 1 ? value >> 1 ^ 0xA001 : value >> 1;
    }
    return value;
}

/* NULL: a hole. Blocks without a sonicator behind them read as 0. */
static uint16_t *find(uint16_t address)
{
    static uint16_t nothing;
    if (address < SYSTEM_END)
        return &system_registers[address];
    if (address < BLOCKS_BASE || address >= BLOCKS_END)
        return 0;
    uint8_t block = (address - BLOCKS_BASE) / STRIDE;
    nothing = 0;
    return block >= 1 && block <= SONICATORS ? &sonicators[block - 1][address % STRIDE] : &nothing;
}

static void update(void)
{
    uint8_t mask = 0, count = 0;
    for (uint8_t i = 0; i < SONICATORS; i++) {
        uint16_t *registers = sonicators[i];
        bool running = registers[START_STOP];
        registers[POWER] = running ? registers[AMPLITUDE] * 9 + i : 0;
        registers[FREQUENCY] = running ? 2000 + i * 3 : 0;
        registers[STATUS_FLAGS] = running ? 5 : 0;
        registers[AMPLITUDE_ACTUAL] = running ? registers[AMPLITUDE] : 0;
        if (running) {
            mask |= 1 << i;
            count++;
        }
    }
    system_registers[ACTIVE_MASK] = mask;
    system_registers[ACTIVE_COUNT] = count;
    if (!(system_registers[SYSTEM_STATUS] & 4))
        system_registers[SYSTEM_STATUS] = 1;
}

static void stop_all(void)
{
    for (uint8_t i = 0; i < SONICATORS; i++)
        sonicators[i][START_STOP] = 0;
}

static void write_register(uint16_t address, uint16_t value)
{
    uint16_t *place = find(address);
    bool is_start = address >= BLOCKS_BASE && address % STRIDE == START_STOP;
    if (is_start && value) {
        uint8_t bit = 1 << ((address - BLOCKS_BASE) / STRIDE - 1);
        if (!system_registers[GLOBAL_ENABLE] || system_registers[EMERGENCY_STOP] || system_registers[START_INHIBIT_MASK] & bit)
            return;
    }
    *place = value;
    if (address == GLOBAL_AMPLITUDE)
        for (uint8_t i = 0; i < SONICATORS; i++)
            sonicators[i][AMPLITUDE] = value;
    if ((address == DOCUMENTED_EMERGENCY_STOP || address == EMERGENCY_STOP) && value)
        system_registers[SYSTEM_STATUS] = 4;
    if (address == EMERGENCY_STOP && !value)
        system_registers[SYSTEM_STATUS] = 1;
    if ((address == EMERGENCY_STOP && value) || (address == GLOBAL_ENABLE && !value))
        stop_all();
    reset_requested = address == SYSTEM_RESET && value == RESET_KEY;
}

static void transmit(uint8_t byte)
{
    while (!(UCSRA & _BV(UDRE)))
        ;
    UDR = byte;
}

static void answer(uint8_t *bytes, uint8_t length)
{
    uint16_t check = crc(bytes, length);
    bytes[length++] = check;
    bytes[length++] = check >> 8;
    PORTD |= _BV(2);
    for (uint8_t i = 0; i < length; i++)
        transmit(bytes[i]);
    PORTD &= ~_BV(2);
}

static void except(uint8_t function, uint8_t code)
{
    uint8_t bytes[5] = {unit, function | 0x80, code};
    answer(bytes, 3);
}

static void handle_request(void)
{
    uint8_t bytes[BUFFER];
    uint16_t address = buffer[2] << 8 | buffer[3], value = buffer[4] << 8 | buffer[5];
    uint8_t function = buffer[1];
    if (function != 3 && function != 6) {
        except(function, 1);
        return;
    }
    bytes[0] = unit;
    bytes[1] = function;
    if (function == 6) {
        if (!find(address)) {
            except(function, 2);
            return;
        }
        write_register(address, value);
        update();
        for (uint8_t i = 2; i < 6; i++)
            bytes[i] = buffer[i];
        answer(bytes, 6);
        return;
    }
    if (value > LARGEST_BLOCK)
        return;
    uint8_t length = 3;
    bytes[2] = value * 2;
    for (; value; value--, address++) {
        const uint16_t *place = find(address);
        if (!place) {
            except(function, 2);
            return;
        }
        bytes[length++] = *place >> 8;
        bytes[length++] = *place;
    }
    answer(bytes, length);
}

static void handle_frame(void)
{
    uint8_t length = received;
    if (crc(buffer, length) != 0)
        system_registers[COMM_ERRORS]++;
    else if (buffer[0] == unit)
        handle_request();
    else
        others = DEAF_TO_OTHERS_MS - FRAME_GAP_MS;
    received = 0;
}

int main(void)
{
    MCUCSR = 0;
    wdt_disable();
    unit = eeprom_read_byte((uint8_t *)0);
    if (unit == 0 || unit > 247)
        unit = DEFAULT_UNIT;
    system_registers[GLOBAL_ENABLE] = system_registers[WATCHDOG_STATUS] = 1;
    system_registers[GLOBAL_AMPLITUDE] = DEFAULT_AMPLITUDE;
    for (uint8_t i = 0; i < SONICATORS; i++)
        sonicators[i][AMPLITUDE] = DEFAULT_AMPLITUDE;
    update();
    DDRD |= _BV(2);
    UCSRA = _BV(U2X);
    UBRRL = 16;
    UCSRC = _BV(URSEL) | _BV(UCSZ1) | _BV(UCSZ0);
    UCSRB = _BV(RXEN) | _BV(TXEN) | _BV(RXCIE);
    TCCR2 = _BV(WGM21) | _BV(CS22);
    OCR2 = 249;
    TIMSK |= _BV(OCIE2);
    set_sleep_mode(SLEEP_MODE_IDLE);
    sei();
    for (;;) {
        sleep_mode();
        cli();
        uint16_t ms = quiet;
        sei();
        if (heard_any && ms > MAX_SILENCE_MS && !deaf) {
            deaf = true;
            stop_all();
            update();
        }
        if (received >= 8 && ms >= FRAME_GAP_MS)
            handle_frame();
        if (reset_requested) {
            wdt_enable(WDTO_15MS);
            for (;;)
                ;
        }
    }
}
