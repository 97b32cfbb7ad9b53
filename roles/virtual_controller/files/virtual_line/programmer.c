/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "programmer.h"

#include <stdlib.h>
#include <string.h>

/* STK500 protocol, version 1 */
enum {
    GET_SYNC = 0x30, GET_SIGN_ON = 0x31, GET_PARAMETER = 0x41, SET_DEVICE = 0x42, SET_DEVICE_EXT = 0x45,
    ENTER_PROGMODE = 0x50, LEAVE_PROGMODE = 0x51, LOAD_ADDRESS = 0x55, UNIVERSAL = 0x56, PROGRAM_PAGE = 0x64,
    READ_PAGE = 0x74, READ_SIGNATURE = 0x75,
    SYNC_CRC_EOP = 0x20, IN_SYNC = 0x14, OK = 0x10, UNKNOWN = 0x12, NO_SYNC = 0x15,
};

const char *const programmer_event_names[EVENTS] = {"page", "erase", "eeprom", "enter", "leave", "fuse"};

/* The sketch waits this long after a page (it blinks its LED) and after every EEPROM byte. */
#define PAGE_DELAY 30000000u
#define EEPROM_DELAY 45000000u
/* A command whose rest does not come is given up, so that a killed avrdude does not eat the next one's first bytes. */
#define COMMAND_TIMEOUT 1000000000u

static const uint8_t true_signature[3] = {0x1E, 0x95, 0x02};

void programmer_init(struct programmer *programmer, struct board *board)
{
    programmer->board = board;
    programmer->port.master = programmer->port.dev = -1;
    programmer->corrupt_read = programmer->corrupt_write = -1;
    memset(programmer->page, 0xFF, sizeof programmer->page);
}

void programmer_clear_faults(struct programmer *programmer)
{
    programmer->mute = programmer->dead = programmer->wrong_signature = programmer->power_cut_half = false;
    programmer->hold.left = programmer->power_cut.left = programmer->die.left = 0;
    programmer->corrupt_read = programmer->corrupt_write = -1;
    programmer->noise = 0;
    programmer_release(programmer);
}

static bool fires(struct trigger *trigger, enum programmer_event event)
{
    return trigger->left && trigger->event == event && --trigger->left == 0;
}

/* ---- SPI */

static bool target_listens(const struct programmer *programmer)
{
    return programmer->board->powered && programmer->board->programming_enabled;
}

/* Counts the event and lets the armed faults act. Returns false if the power went away before it could take effect. */
static bool happens(struct programmer *programmer, enum programmer_event event)
{
    programmer->events[event]++;
    bool powered = true;
    if (fires(&programmer->power_cut, event)) {
        board_power(programmer->board, false);
        powered = false;
    }
    if (fires(&programmer->die, event))
        programmer->dead = true;
    if (fires(&programmer->hold, event))
        programmer->holding = true;
    return powered;
}

static void write_page(struct programmer *programmer, unsigned base)
{
    if (!target_listens(programmer))
        return;
    unsigned length = PAGE_SIZE;
    if (!happens(programmer, EVENT_PAGE)) {
        if (!programmer->power_cut_half)
            return;
        length = PAGE_SIZE / 2;
    }
    uint8_t *flash = programmer->board->flash;
    for (unsigned i = 0; i < length; i++)
        flash[base + i] &= programmer->page[i]; /* only an erase sets bits */
    if (programmer->corrupt_write >= (int)base && programmer->corrupt_write < (int)(base + PAGE_SIZE))
        flash[programmer->corrupt_write] ^= 0x01;
    memset(programmer->page, 0xFF, sizeof programmer->page);
}

static void write_eeprom(struct programmer *programmer, unsigned address, uint8_t value)
{
    if (target_listens(programmer))
        programmer->board->eeprom[address % EEPROM_SIZE] = value;
}

static void erase_chip(struct programmer *programmer)
{
    struct board *board = programmer->board;
    bool completes = happens(programmer, EVENT_ERASE);
    memset(board->flash, 0xFF, completes ? FLASH_SIZE : FLASH_SIZE / 2);
    if (completes && board->hfuse & HFUSE_EESAVE)
        memset(board->eeprom, 0xFF, EEPROM_SIZE);
    board->lock = 0xFF;
    board_save_fuses(board);
}

static void write_fuse(struct programmer *programmer, uint8_t *fuse, uint8_t value)
{
    if (!happens(programmer, EVENT_FUSE))
        return;
    *fuse = value;
    board_save_fuses(programmer->board);
}

static uint8_t read_flash(const struct programmer *programmer, unsigned address)
{
    address %= FLASH_SIZE;
    if (!target_listens(programmer))
        return 0xFF;
    uint8_t value = programmer->board->flash[address];
    return programmer->corrupt_read == (int)address ? value ^ 0x01 : value;
}

static uint8_t read_eeprom(const struct programmer *programmer, unsigned address)
{
    return target_listens(programmer) ? programmer->board->eeprom[address % EEPROM_SIZE] : 0xFF;
}

static uint8_t read_signature(const struct programmer *programmer, unsigned index)
{
    if (!target_listens(programmer) || index > 2)
        return 0xFF;
    return programmer->wrong_signature ? programmer->signature[index] : true_signature[index];
}

/* The part's serial programming instructions, four bytes each. */
static uint8_t spi(struct programmer *programmer, const uint8_t *instruction)
{
    struct board *board = programmer->board;
    if (!target_listens(programmer))
        return 0xFF;
    unsigned word = (unsigned)instruction[1] << 8 | instruction[2];
    uint8_t select = instruction[1];
    switch (instruction[0]) {
    case 0xAC:
        if (select == 0x53)
            return 0x53; /* programming enable: the echo */
        if ((select & 0xE0) == 0x80)
            erase_chip(programmer);
        else if (select == 0xA0)
            write_fuse(programmer, &board->lfuse, instruction[3]);
        else if (select == 0xA8)
            write_fuse(programmer, &board->hfuse, instruction[3]);
        else if ((select & 0xE0) == 0xE0)
            write_fuse(programmer, &board->lock, board->lock & (instruction[3] | 0xC0));
        return 0;
    case 0x20:
        return read_flash(programmer, word * 2);
    case 0x28:
        return read_flash(programmer, word * 2 + 1);
    case 0x30:
        return read_signature(programmer, instruction[2] & 3);
    case 0x38:
        return 0xA7; /* oscillator calibration */
    case 0x40:
    case 0x48:
        programmer->page[(instruction[2] * 2u + (instruction[0] == 0x48)) % PAGE_SIZE] = instruction[3];
        return 0;
    case 0x4C:
        write_page(programmer, word * 2 % FLASH_SIZE / PAGE_SIZE * PAGE_SIZE);
        return 0;
    case 0x50:
        return select & 8 ? 0xFF : board->lfuse; /* no extended fuse on this part */
    case 0x58:
        return select & 8 ? board->hfuse : board->lock;
    case 0xA0:
        return read_eeprom(programmer, word);
    case 0xC0:
        if (happens(programmer, EVENT_EEPROM))
            write_eeprom(programmer, word, instruction[3]);
        return 0;
    case 0xF0:
        return 0; /* never busy */
    default:
        return 0xFF;
    }
}

/* ---- the sketch's side of the serial port */

static void put(struct programmer *programmer, const uint8_t *bytes, unsigned count)
{
    for (unsigned i = 0; i < count && programmer->answer_count < sizeof programmer->answer; i++)
        programmer->answer[(programmer->answer_first + programmer->answer_count++) % sizeof programmer->answer] = bytes[i];
}

static void put_byte(struct programmer *programmer, uint8_t byte)
{
    put(programmer, &byte, 1);
}

static void answer(struct programmer *programmer, const uint8_t *payload, unsigned count)
{
    put_byte(programmer, IN_SYNC);
    put(programmer, payload, count);
    put_byte(programmer, OK);
}

static void answer_byte(struct programmer *programmer, uint8_t byte)
{
    answer(programmer, &byte, 1);
}

static void enter_programming(struct programmer *programmer)
{
    happens(programmer, EVENT_ENTER);
    programmer->programming = true;
    board_hold_in_reset(programmer->board, true);
    programmer->board->programming_enabled = programmer->board->powered;
    answer(programmer, NULL, 0); /* the sketch does not look at the chip's echo */
}

static void leave_programming(struct programmer *programmer)
{
    happens(programmer, EVENT_LEAVE);
    programmer->programming = false;
    board_hold_in_reset(programmer->board, false);
    answer(programmer, NULL, 0);
}

static uint8_t parameter(uint8_t name)
{
    switch (name) {
    case 0x80: return 2;   /* hardware version */
    case 0x81: return 1;   /* software, major */
    case 0x82: return 18;  /* software, minor */
    case 0x93: return 'S'; /* serial programmer */
    default: return 0;
    }
}

/* How many bytes a command programs or reads. */
static unsigned page_count(const uint8_t *command)
{
    return (unsigned)command[1] << 8 | command[2];
}

static void program_page(struct programmer *programmer, uint64_t now)
{
    unsigned count = page_count(programmer->command);
    const uint8_t *data = programmer->command + 4;
    unsigned start = programmer->address * 2; /* avrdude sends word addresses for the EEPROM as well */
    uint64_t delay = 0;
    if (programmer->command[3] == 'F') {
        for (unsigned i = 0; i < count; i++) {
            unsigned address = (start + i) % FLASH_SIZE;
            programmer->page[address % PAGE_SIZE] = data[i];
            if (i + 1 == count || (address + 1) % PAGE_SIZE == 0) {
                write_page(programmer, address / PAGE_SIZE * PAGE_SIZE);
                delay += PAGE_DELAY;
            }
        }
    } else if (target_listens(programmer) && happens(programmer, EVENT_EEPROM)) {
        for (unsigned i = 0; i < count; i++)
            write_eeprom(programmer, start + i, data[i]);
        delay = count * (uint64_t)EEPROM_DELAY;
    }
    if (programmer->realistic_delays)
        programmer->busy_until = now + delay;
    answer(programmer, NULL, 0);
}

static void read_page(struct programmer *programmer)
{
    unsigned count = page_count(programmer->command);
    unsigned start = programmer->address * 2;
    bool flash = programmer->command[3] == 'F';
    put_byte(programmer, IN_SYNC);
    for (unsigned i = 0; i < count; i++)
        put_byte(programmer, flash ? read_flash(programmer, start + i) : read_eeprom(programmer, start + i));
    put_byte(programmer, OK);
}

/* Length of the command that begins like this, its end mark included; 0 where more bytes must tell. */
static unsigned command_length(const uint8_t *command, unsigned length)
{
    unsigned count = length > 2 ? page_count(command) : 0;
    switch (command[0]) {
    case SYNC_CRC_EOP: return 1;
    case GET_PARAMETER: return 3;
    case SET_DEVICE: return 22;
    case SET_DEVICE_EXT: return 7;
    case LOAD_ADDRESS: return 4;
    case UNIVERSAL: return 6;
    case READ_PAGE: return 5;
    case PROGRAM_PAGE: return length < 3 ? 0 : count > 256 ? length : 5 + count;
    default: return 2;
    }
}

static bool makes_sense(const uint8_t *command, unsigned length)
{
    if (command[0] == PROGRAM_PAGE && length != 5 + page_count(command)) /* more than any page has: its data are not awaited */
        return false;
    return command[0] != SYNC_CRC_EOP && command[length - 1] == SYNC_CRC_EOP;
}

static void execute(struct programmer *programmer, uint64_t now)
{
    const uint8_t *command = programmer->command;
    if (!makes_sense(command, programmer->command_length)) {
        programmer->no_sync++;
        put_byte(programmer, NO_SYNC);
        return;
    }
    switch (command[0]) {
    case GET_SYNC:
    case SET_DEVICE:
    case SET_DEVICE_EXT:
        answer(programmer, NULL, 0);
        break;
    case GET_SIGN_ON:
        answer(programmer, (const uint8_t *)"AVR ISP", 7);
        break;
    case GET_PARAMETER:
        answer_byte(programmer, parameter(command[1]));
        break;
    case ENTER_PROGMODE:
        enter_programming(programmer);
        break;
    case LEAVE_PROGMODE:
        leave_programming(programmer);
        break;
    case LOAD_ADDRESS:
        programmer->address = command[1] | (unsigned)command[2] << 8;
        answer(programmer, NULL, 0);
        break;
    case UNIVERSAL:
        answer_byte(programmer, spi(programmer, command + 1));
        break;
    case PROGRAM_PAGE:
        program_page(programmer, now);
        break;
    case READ_PAGE:
        read_page(programmer);
        break;
    case READ_SIGNATURE:
        answer(programmer, (const uint8_t[]){read_signature(programmer, 0), read_signature(programmer, 1), read_signature(programmer, 2)}, 3);
        break;
    default:
        put_byte(programmer, UNKNOWN);
    }
}

static void forget_session(struct programmer *programmer)
{
    programmer->received_count = programmer->command_length = programmer->answer_count = 0;
    memset(programmer->page, 0xFF, sizeof programmer->page);
}

static uint64_t wire_time(const struct programmer *programmer)
{
    return programmer->baudrate ? 10000000000u / programmer->baudrate : 0;
}

static uint8_t noisy(struct programmer *programmer, uint8_t byte)
{
    if (!programmer->noise || random() % programmer->noise)
        return byte;
    programmer->noise_hits++;
    return byte ^ (uint8_t)(1u << (random() & 7));
}

bool programmer_has_room(const struct programmer *programmer)
{
    return programmer->received_count < sizeof programmer->received / 2;
}

void programmer_receive(struct programmer *programmer, uint64_t now)
{
    uint8_t bytes[sizeof programmer->received / 2];
    size_t count = port_read(&programmer->port, bytes, sizeof bytes);
    for (size_t i = 0; i < count; i++) {
        if (programmer->received_count == 0)
            programmer->next_byte = (programmer->receiver_free > now ? programmer->receiver_free : now) + wire_time(programmer);
        programmer->received[(programmer->received_first + programmer->received_count++) % sizeof programmer->received] =
            noisy(programmer, bytes[i]);
    }
}

static void notice_opening_and_closing(struct programmer *programmer, uint64_t now)
{
    if (programmer->was_in_use && !programmer->port.in_use)
        forget_session(programmer); /* the board stays as it is: in reset, if it was */
    if (programmer->opened_seen != programmer->port.opened && programmer->autoreset) {
        forget_session(programmer);
        programmer->programming = false;
        board_hold_in_reset(programmer->board, false);
        programmer->deaf_until = now + programmer->autoreset * 1000000u;
    }
    programmer->opened_seen = programmer->port.opened;
    programmer->was_in_use = programmer->port.in_use;
}

static bool stuck(const struct programmer *programmer)
{
    return programmer->holding || programmer->dead;
}

static void take_bytes(struct programmer *programmer, uint64_t now)
{
    while (programmer->received_count && programmer->next_byte <= now && programmer->busy_until <= now && !stuck(programmer)) {
        uint8_t byte = programmer->received[programmer->received_first % sizeof programmer->received];
        programmer->received_first++;
        programmer->received_count--;
        programmer->receiver_free = programmer->next_byte;
        programmer->next_byte += wire_time(programmer);
        if (now < programmer->deaf_until)
            continue;
        programmer->bytes_received++;
        if (programmer->command_length == 0)
            programmer->command_started = now;
        programmer->command[programmer->command_length++] = byte;
        if (programmer->command_length == command_length(programmer->command, programmer->command_length)) {
            bool idle = programmer->answer_count == 0;
            execute(programmer, now);
            programmer->command_length = 0;
            if (idle && programmer->answer_count) /* the first byte is there when the wire has carried it */
                programmer->sender_free = (programmer->sender_free > now ? programmer->sender_free : now) + wire_time(programmer);
        }
    }
    if (programmer->command_length && !stuck(programmer) && programmer->received_count == 0 &&
        now > programmer->command_started + COMMAND_TIMEOUT)
        programmer->command_length = 0;
}

static void send_answers(struct programmer *programmer, uint64_t now)
{
    if (stuck(programmer) || programmer->busy_until > now)
        return;
    if (programmer->mute) {
        programmer->answer_count = 0;
        return;
    }
    while (programmer->answer_count) {
        uint8_t bytes[sizeof programmer->answer];
        unsigned ready = 0;
        uint64_t free = programmer->sender_free;
        if (free < programmer->busy_until) /* it had nothing to say before */
            free = programmer->busy_until + wire_time(programmer);
        /* Byte follows byte on the wire, however late we wake up to hand them over. */
        while (ready < programmer->answer_count && (!programmer->baudrate || free <= now)) {
            bytes[ready] = noisy(programmer, programmer->answer[(programmer->answer_first + ready) % sizeof programmer->answer]);
            ready++;
            free += wire_time(programmer);
        }
        if (!ready)
            return;
        unsigned sent = (unsigned)port_write(&programmer->port, bytes, ready);
        programmer->answer_first += sent;
        programmer->answer_count -= sent;
        programmer->bytes_sent += sent;
        programmer->sender_free = free;
        if (sent < ready)
            return;
    }
}

void programmer_work(struct programmer *programmer, uint64_t now)
{
    if (!programmer->port.link)
        return;
    notice_opening_and_closing(programmer, now);
    take_bytes(programmer, now);
    send_answers(programmer, now);
}

uint64_t programmer_next_event(const struct programmer *programmer)
{
    if (!programmer->port.link || stuck(programmer) || !programmer->port.in_use)
        return UINT64_MAX;
    uint64_t next = UINT64_MAX;
    if (programmer->received_count)
        next = programmer->next_byte;
    if (programmer->answer_count && programmer->sender_free < next)
        next = programmer->sender_free;
    if (programmer->command_length && programmer->command_started + COMMAND_TIMEOUT < next)
        next = programmer->command_started + COMMAND_TIMEOUT;
    return next < programmer->busy_until ? programmer->busy_until : next;
}

void programmer_release(struct programmer *programmer)
{
    programmer->holding = false;
}
