/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Reference firmware of the Multi-Sonicator I/O Controller: the documented register map and the safety rules, with
 * simulated sonicators. Safety rules:
 *  - after any boot all sonicators are off and all settings have their defaults; nothing resumes;
 *  - more than 1 s without a valid request addressed to this unit stops all of them;
 *  - an emergency stop latches until 0 is written to its register; nothing starts meanwhile;
 *  - an inhibited sonicator ignores start commands, but goes on running if it runs;
 *  - amplitudes outside of 20 to 100 % are refused. */
#include "uart_frames.h"

#include <avr/eeprom.h>
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>
#include <avr/wdt.h>

enum { SONICATORS = 4, LARGEST_BLOCK = 50, DEFAULT_UNIT = 2, DEFAULT_AMPLITUDE = 50 };
enum { MAX_SILENCE_MS = 1000, LOCK_TIME_MS = 200 };
enum { EEPROM_UNIT = 0, EEPROM_AMPLITUDES = 20 };
enum { ILLEGAL_FUNCTION = 1, ILLEGAL_ADDRESS = 2, ILLEGAL_VALUE = 3, DEVICE_FAILURE = 4 };

enum {
    SYSTEM_STATUS = 0x00, ACTIVE_COUNT, ACTIVE_MASK, WATCHDOG_STATUS, COMM_ERRORS, PREV_ACTIVE_MASK, LAST_SHUTDOWN_REASON,
    VERSION, PATCH, UPTIME, STARTS, STOPS, SILENCE_STOPS,
    GLOBAL_ENABLE = 0x10, EMERGENCY_STOP, SYSTEM_RESET, START_INHIBIT_MASK, SYSTEM_REGISTERS,
    SONICATOR_BASE = 0x100, SONICATOR_STRIDE = 0x20, SONICATOR_END = SONICATOR_BASE + SONICATORS * SONICATOR_STRIDE,
};
enum {
    START_STOP = 0x00, AMPLITUDE, OVERLOAD_RESET,
    POWER = 0x10, FREQUENCY, STATUS_FLAGS, AMPLITUDE_ACTUAL, PREV_STATE, PERSISTED_AMPLITUDE, LAST_FAULT_CODE, LAST_STATE_TIMESTAMP,
};
enum { STATUS_OK = 1 << 0, STATUS_EMERGENCY_STOP = 1 << 2, STATUS_COMM_FAULT = 1 << 3 };
enum { FLAG_RUNNING = 1 << 0, FLAG_FREQUENCY_LOCK = 1 << 2 };
enum { STATE_STOPPED, STATE_STARTING, STATE_RUNNING };
enum { REASON_NORMAL, REASON_WATCHDOG, REASON_POWER_LOSS, REASON_EMERGENCY_STOP };
#define RESET_KEY 0xA5C3
#define KEPT_MAGIC 0x5A17

struct sonicator {
    uint8_t state, previous_state;
    uint8_t amplitude, overload_reset, persisted;
    uint16_t state_second;
    uint16_t lock_left; /* ms until the frequency locks */
};

/* Survives every reset but the loss of power. Volatile: what is written last before a reset is written for after it. */
static volatile struct {
    uint16_t magic;
    uint8_t active;
    bool emergency_stop, asked_for_reset;
} kept __attribute__((section(".noinit")));

static struct sonicator sonicators[SONICATORS];
static uint8_t enabled, inhibited, previous_active, shutdown_reason;
static bool emergency_stop, comm_fault, reset_requested;
static uint16_t seconds, starts, stops, silence_stops;
static uint16_t silence; /* ms since the last valid request to this unit */
static volatile uint8_t ticks; /* ms not yet accounted for */

ISR(TIMER2_COMP_vect)
{
    ticks++;
}

/* ---- sonicators */

static uint8_t active_mask(void)
{
    uint8_t mask = 0;
    for (uint8_t i = 0; i < SONICATORS; i++)
        if (sonicators[i].state != STATE_STOPPED)
            mask |= 1 << i;
    return mask;
}

static void change_state(struct sonicator *sonicator, uint8_t state)
{
    sonicator->previous_state = sonicator->state;
    sonicator->state = state;
    sonicator->state_second = seconds;
    kept.active = active_mask();
    /* The four enable lines to the power units. */
    PORTC = kept.active;
}

static void start(struct sonicator *sonicator)
{
    if (sonicator->state != STATE_STOPPED)
        return;
    change_state(sonicator, STATE_STARTING);
    sonicator->lock_left = LOCK_TIME_MS;
    starts++;
    comm_fault = false;
}

static void stop(struct sonicator *sonicator)
{
    if (sonicator->state == STATE_STOPPED)
        return;
    change_state(sonicator, STATE_STOPPED);
    stops++;
}

static void stop_all(void)
{
    for (uint8_t i = 0; i < SONICATORS; i++)
        stop(&sonicators[i]);
}

/* The EEPROM is written only when a start used another amplitude than the last one, and never waited for. */
static void persist_amplitude(void)
{
    if (!eeprom_is_ready())
        return;
    for (uint8_t i = 0; i < SONICATORS; i++) {
        struct sonicator *sonicator = &sonicators[i];
        if (sonicator->state == STATE_RUNNING && sonicator->persisted != sonicator->amplitude) {
            sonicator->persisted = sonicator->amplitude;
            eeprom_write_byte((uint8_t *)(EEPROM_AMPLITUDES + i), sonicator->amplitude);
            return;
        }
    }
}

/* ---- registers */

static uint16_t read_sonicator(uint8_t number, uint8_t offset)
{
    const struct sonicator *sonicator = &sonicators[number];
    bool running = sonicator->state != STATE_STOPPED;
    bool locked = sonicator->state == STATE_RUNNING;
    switch (offset) {
    case START_STOP: return running;
    case AMPLITUDE: return sonicator->amplitude;
    case OVERLOAD_RESET: return sonicator->overload_reset;
    /* A load that draws about 8 W for each percent, and breathes a little. */
    case POWER: return running ? sonicator->amplitude * 9 + number + (seconds & 3) : 0;
    case FREQUENCY: return running ? 2000 + number * 3 + (locked ? 0 : 15) : 0;
    case STATUS_FLAGS: return (running ? FLAG_RUNNING : 0) | (locked ? FLAG_FREQUENCY_LOCK : 0);
    case AMPLITUDE_ACTUAL: return running ? sonicator->amplitude : 0;
    case PREV_STATE: return sonicator->previous_state;
    case PERSISTED_AMPLITUDE: return sonicator->persisted == 0xFF ? 0 : sonicator->persisted;
    case LAST_STATE_TIMESTAMP: return sonicator->state_second;
    default: return 0;
    }
}

static uint16_t read_system(uint8_t address)
{
    uint8_t mask = active_mask(), count = 0;
    for (uint8_t rest = mask; rest; rest >>= 1)
        count += rest & 1;
    switch (address) {
    case SYSTEM_STATUS:
        return (emergency_stop ? STATUS_EMERGENCY_STOP : 0) | (comm_fault ? STATUS_COMM_FAULT : 0) |
               (emergency_stop || comm_fault ? 0 : STATUS_OK);
    case ACTIVE_COUNT: return count;
    case ACTIVE_MASK: return mask;
    case WATCHDOG_STATUS: return 1;
    case COMM_ERRORS: return frame_errors();
    case PREV_ACTIVE_MASK: return previous_active;
    case LAST_SHUTDOWN_REASON: return shutdown_reason;
    case VERSION: return FIRMWARE_MAJOR << 8 | FIRMWARE_MINOR;
    case PATCH: return FIRMWARE_PATCH;
    case UPTIME: return seconds;
    case STARTS: return starts;
    case STOPS: return stops;
    case SILENCE_STOPS: return silence_stops;
    case GLOBAL_ENABLE: return enabled;
    case EMERGENCY_STOP: return emergency_stop;
    case START_INHIBIT_MASK: return inhibited;
    default: return 0;
    }
}

static bool readable(uint16_t address)
{
    return address < SYSTEM_REGISTERS || (address >= SONICATOR_BASE && address < SONICATOR_END);
}

static uint16_t read_register(uint16_t address)
{
    return address < SYSTEM_REGISTERS ? read_system(address)
                                      : read_sonicator((address - SONICATOR_BASE) / SONICATOR_STRIDE, address % SONICATOR_STRIDE);
}

/* The exception a write would meet, 0: none. All registers of a block are checked before the first is written. */
static uint8_t check_write(uint16_t address, uint16_t value)
{
    switch (address) {
    case GLOBAL_ENABLE:
    case EMERGENCY_STOP:
        return value > 1 ? ILLEGAL_VALUE : 0;
    case SYSTEM_RESET:
        return value && value != RESET_KEY ? ILLEGAL_VALUE : 0;
    case START_INHIBIT_MASK:
        return value >> SONICATORS ? ILLEGAL_VALUE : 0;
    }
    if (address < SONICATOR_BASE || address >= SONICATOR_END)
        return ILLEGAL_ADDRESS;
    switch (address % SONICATOR_STRIDE) {
    case START_STOP:
        if (value > 1)
            return ILLEGAL_VALUE;
        return value && (emergency_stop || !enabled) ? DEVICE_FAILURE : 0;
    case AMPLITUDE:
        return value < 20 || value > 100 ? ILLEGAL_VALUE : 0;
    case OVERLOAD_RESET:
        return value > 1 ? ILLEGAL_VALUE : 0;
    default:
        return ILLEGAL_ADDRESS;
    }
}

static void write_sonicator(uint8_t number, uint8_t offset, uint16_t value)
{
    struct sonicator *sonicator = &sonicators[number];
    switch (offset) {
    case START_STOP:
        if (!value)
            stop(sonicator);
        else if (!(inhibited & 1 << number))
            start(sonicator);
        break;
    case AMPLITUDE:
        sonicator->amplitude = value;
        break;
    default:
        sonicator->overload_reset = value;
    }
}

static void write_register(uint16_t address, uint16_t value)
{
    switch (address) {
    case GLOBAL_ENABLE:
        enabled = value;
        if (!value)
            stop_all();
        break;
    case EMERGENCY_STOP:
        emergency_stop = value;
        kept.emergency_stop = value;
        if (value)
            stop_all();
        break;
    case SYSTEM_RESET:
        reset_requested = value;
        break;
    case START_INHIBIT_MASK:
        inhibited = value;
        break;
    default:
        write_sonicator((address - SONICATOR_BASE) / SONICATOR_STRIDE, address % SONICATOR_STRIDE, value);
    }
}

/* ---- requests */

static uint16_t word_at(const uint8_t *bytes)
{
    return bytes[0] << 8 | bytes[1];
}

/* The length of the answer, or an exception code as a negative number. */
static int16_t read_registers(uint8_t length)
{
    uint16_t address = word_at(frame + 2), count = word_at(frame + 4);
    if (length != 8 || !count || count > LARGEST_BLOCK)
        return -ILLEGAL_VALUE;
    uint8_t *out = answer + 3;
    answer[2] = count * 2;
    for (; count; count--, address++) {
        if (!readable(address))
            return -ILLEGAL_ADDRESS;
        uint16_t value = read_register(address);
        *out++ = value >> 8;
        *out++ = value;
    }
    return out - answer;
}

static int16_t write_registers(uint8_t length, const uint8_t *values, uint16_t count)
{
    uint16_t address = word_at(frame + 2);
    if (!count || count > LARGEST_BLOCK || length != values - frame + 2 * count + 2)
        return -ILLEGAL_VALUE;
    for (uint8_t i = 0; i < count; i++) {
        uint8_t exception = check_write(address + i, word_at(values + 2 * i));
        if (exception)
            return -exception;
    }
    for (uint8_t i = 0; i < count; i++)
        write_register(address + i, word_at(values + 2 * i));
    for (uint8_t i = 2; i < 6; i++)
        answer[i] = frame[i];
    return 6;
}

static int16_t carry_out(uint8_t length)
{
    switch (frame[1]) {
    case 3:
        return read_registers(length);
    case 6:
        return write_registers(length, frame + 4, 1);
    case 16:
        if (frame[6] != frame[5] * 2)
            return -ILLEGAL_VALUE;
        return write_registers(length, frame + 7, word_at(frame + 4));
    default:
        return -ILLEGAL_FUNCTION;
    }
}

static void handle_frame(void)
{
    silence = 0;
    answer[0] = frame[0];
    answer[1] = frame[1];
    int16_t result = carry_out(frame_length());
    if (result < 0) {
        answer[1] |= 0x80;
        answer[2] = -result;
        result = 3;
    }
    answer_send(result);
}

/* ---- time */

static void millisecond_passed(void)
{
    static uint16_t of_second;
    if (++of_second == 1000) {
        of_second = 0;
        seconds++;
    }
    for (uint8_t i = 0; i < SONICATORS; i++) {
        struct sonicator *sonicator = &sonicators[i];
        if (sonicator->state == STATE_STARTING && --sonicator->lock_left == 0)
            change_state(sonicator, STATE_RUNNING);
    }
    if (silence <= MAX_SILENCE_MS) {
        silence++;
    } else if (active_mask()) {
        stop_all();
        silence_stops++;
        comm_fault = true;
    }
    persist_amplitude();
}

static void sleep_until_something_happens(void)
{
    cli();
    if (!frame_complete() && !ticks) {
        sleep_enable();
        sei();
        sleep_cpu();
        sleep_disable();
    }
    sei();
}

static void begin(void)
{
    uint8_t cause = MCUCSR;
    MCUCSR = 0; /* the watchdog can be turned off only when its flag is cleared */
    wdt_disable();
    bool known = kept.magic == KEPT_MAGIC && !(cause & _BV(PORF));
    if (!known)
        shutdown_reason = REASON_POWER_LOSS;
    else if (kept.emergency_stop)
        shutdown_reason = REASON_EMERGENCY_STOP;
    else if (cause & _BV(WDRF) && !kept.asked_for_reset)
        shutdown_reason = REASON_WATCHDOG;
    previous_active = known ? kept.active : 0;
    kept.magic = KEPT_MAGIC;
    kept.active = kept.emergency_stop = kept.asked_for_reset = 0;

    uint8_t unit = eeprom_read_byte((uint8_t *)EEPROM_UNIT);
    if (unit == 0 || unit > 247)
        unit = DEFAULT_UNIT;
    enabled = 1;
    for (uint8_t i = 0; i < SONICATORS; i++) {
        sonicators[i].amplitude = DEFAULT_AMPLITUDE;
        sonicators[i].persisted = eeprom_read_byte((uint8_t *)(EEPROM_AMPLITUDES + i));
    }
    DDRC = 0x0F;
    frames_begin(unit);
    TCCR2 = _BV(WGM21) | _BV(CS22); /* /64: 250 counts are 1 ms */
    OCR2 = 249;
    TIMSK |= _BV(OCIE2);
#ifdef NEVER_ANSWERS
    /* The field's fault: an interrupt is enabled that has no handler. Its first occurrence, after a millisecond, ends at
     * the reset vector, again and again. */
    TCCR0 = _BV(CS01) | _BV(CS00);
    TIMSK |= _BV(TOIE0);
#endif
    set_sleep_mode(SLEEP_MODE_IDLE);
    sei();
}

int main(void)
{
    begin();
    for (;;) {
        sleep_until_something_happens();
        while (ticks) {
            cli();
            ticks--;
            sei();
            millisecond_passed();
        }
        if (frame_complete()) {
            handle_frame();
            frame_done();
        }
        if (reset_requested && answer_sent()) {
            stop_all();
            kept.asked_for_reset = 1;
            wdt_enable(WDTO_15MS);
            for (;;)
                ;
        }
    }
}
