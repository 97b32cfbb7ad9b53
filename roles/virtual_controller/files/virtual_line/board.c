/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "board.h"

#include "intel_hex.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <simavr/avr_eeprom.h>
#include <simavr/avr_timer.h>

enum { MCUCSR_ADDRESS = 0x54, UBRRL_ADDRESS = 0x29, TCCR0_ADDRESS = 0x53 };
enum { MCUCSR_PORF = 1 << 0, MCUCSR_EXTRF = 1 << 1 };

/* ---- the memories on disk */

static bool map_memory(struct board *board, const char *file, size_t length, size_t guard, uint8_t **memory, bool *fresh,
                       char *error, size_t size)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", board->directory, file);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    struct stat status;
    if (fd < 0 || fstat(fd, &status) < 0) {
        snprintf(error, size, "board %s: %s: %s", board->name, path, strerror(errno));
        return false;
    }
    /* The descriptor stays open for the life of the process, and the lock with it. */
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        snprintf(error, size, "board %s: %s is in use by another simulator: stop that one first", board->name, path);
        return false;
    }
    if (status.st_size != 0 && status.st_size != (off_t)length) {
        snprintf(error, size, "board %s: %s has %lld bytes, expected %zu: remove it for a fresh board", board->name, path,
                 (long long)status.st_size, length);
        return false;
    }
    /* The guard is memory behind the file that simavr may write to. */
    uint8_t *area = mmap(NULL, length + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED || (status.st_size == 0 && ftruncate(fd, (off_t)length) < 0) ||
        mmap(area, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        snprintf(error, size, "board %s: %s: %s", board->name, path, strerror(errno));
        return false;
    }
    *fresh = status.st_size == 0;
    if (*fresh)
        memset(area, 0xFF, length);
    *memory = area;
    return true;
}

void board_save_fuses(struct board *board)
{
    char text[64];
    int length = snprintf(text, sizeof text, "lfuse 0x%02X\nhfuse 0x%02X\nlock 0x%02X\n", board->lfuse, board->hfuse, board->lock);
    /* Always the same length, so that one write replaces all of it. */
    if (pwrite(board->fuses_file, text, (size_t)length, 0) != length)
        fprintf(stderr, "board %s: fuses not saved: %s\n", board->name, strerror(errno));
}

static bool open_fuses(struct board *board, char *error, size_t size)
{
    char path[4096], text[128];
    snprintf(path, sizeof path, "%s/fuses", board->directory);
    board->fuses_file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    ssize_t length = board->fuses_file < 0 ? -1 : pread(board->fuses_file, text, sizeof text - 1, 0);
    if (length < 0) {
        snprintf(error, size, "board %s: %s: %s", board->name, path, strerror(errno));
        return false;
    }
    text[length] = 0;
    board->lfuse = 0xFF; /* external crystal */
    board->hfuse = 0xD9; /* EESAVE not programmed */
    board->lock = 0xFF;
    if (length > 0 && sscanf(text, "lfuse 0x%hhx hfuse 0x%hhx lock 0x%hhx", &board->lfuse, &board->hfuse, &board->lock) != 3) {
        snprintf(error, size, "board %s: %s: expected lines \"lfuse 0x..\", \"hfuse 0x..\", \"lock 0x..\"", board->name, path);
        return false;
    }
    board_save_fuses(board);
    return true;
}

/* ---- the microcontroller */

/* Due again at once until the next slice: a core that falls asleep in the slice's last cycles would otherwise jump to
 * the timer after this one, up to a millisecond ahead of what the line says meanwhile. */
static avr_cycle_count_t end_of_slice(avr_t *avr, avr_cycle_count_t when, void *board)
{
    (void)avr, (void)board;
    return when + 1;
}

static void do_not_sleep(avr_t *avr, avr_cycle_count_t cycles)
{
    (void)avr, (void)cycles; /* the main loop keeps pace with the wall clock */
}

/* simavr 1.6 takes 11 bits for a character of 8N1, and 8 once the firmware has written UCSRC, which shares its address
 * with UBRRH on this part. UBRRH itself is therefore taken for 0: no rate below 3900 baud. */
static void correct_character_time(struct board *board)
{
    unsigned per_bit = board->uart->u2x.reg && (board->avr->data[board->uart->u2x.reg] >> board->uart->u2x.bit & 1) ? 8 : 16;
    board->uart->cycles_per_byte = 10u * per_bit * (board->avr->data[UBRRL_ADDRESS] + 1u);
}

static bool baudrate_fits(const struct board *board)
{
    uint64_t own = board->uart->cycles_per_byte * 1000 / board->megahertz;
    uint64_t difference = own > board->wire->character_time ? own - board->wire->character_time : board->wire->character_time - own;
    return difference * 25 < board->wire->character_time; /* 4 %: a receiver samples the last bit half a bit off at 5 % */
}

static uint64_t time_of_cycle(const struct board *board)
{
    return board->boot_time + (board->avr->cycle - board->boot_cycle) * 1000 / board->megahertz;
}

static void transmitted(struct avr_irq_t *irq, uint32_t value, void *param)
{
    (void)irq;
    struct board *board = param;
    correct_character_time(board);
    board->uart_sent++;
    if (board->silent)
        return;
    uint8_t byte = baudrate_fits(board) ? (uint8_t)value : (uint8_t)(value * 37 + 11);
    wire_transmit(board->wire, board->index, byte, time_of_cycle(board));
}

static void log_errors_only(avr_t *avr, const int level, const char *format, va_list arguments)
{
    (void)avr;
    static unsigned lines;
    if (level <= LOG_ERROR && lines++ < 20)
        vfprintf(stderr, format, arguments);
}

/* Timer 0 of simavr's ATmega32 knows the normal mode only. */
static void complete_timer0(avr_t *avr)
{
    for (avr_io_t *io = avr->io_port; io; io = io->next) {
        avr_timer_t *timer = (avr_timer_t *)io;
        if (strcmp(io->kind, "timer") != 0 || timer->name != '0')
            continue;
        timer->wgm[0] = (avr_regbit_t)AVR_IO_REGBIT(TCCR0_ADDRESS, 6);
        timer->wgm[1] = (avr_regbit_t)AVR_IO_REGBIT(TCCR0_ADDRESS, 3);
        timer->wgm_op[1] = (avr_timer_wgm_t)AVR_TIMER_WGM_FCPWM8();
        timer->wgm_op[2] = (avr_timer_wgm_t)AVR_TIMER_WGM_CTC();
        timer->wgm_op[3] = (avr_timer_wgm_t)AVR_TIMER_WGM_FASTPWM8();
    }
}

static bool make_microcontroller(struct board *board, char *error, size_t size)
{
    avr_global_logger_set(log_errors_only);
    avr_t *avr = board->avr = avr_make_mcu_by_name("atmega32");
    if (!avr) {
        snprintf(error, size, "libsimavr has no atmega32");
        return false;
    }
    avr_init(avr);
    avr->sleep = do_not_sleep;
    avr->vcc = avr->avcc = avr->aref = 5000;

    /* simavr keeps an invalid instruction behind the flash that stops a program running off its end. */
    memcpy(board->flash + FLASH_SIZE, avr->flash + FLASH_SIZE, 2);
    free(avr->flash);
    avr->flash = board->flash;
    avr->codeend = avr->flashend;
    for (avr_io_t *io = avr->io_port; io; io = io->next) {
        if (strcmp(io->kind, "eeprom") == 0) {
            free(((avr_eeprom_t *)io)->eeprom);
            ((avr_eeprom_t *)io)->eeprom = board->eeprom;
        } else if (strcmp(io->kind, "uart") == 0) {
            board->uart = (avr_uart_t *)io;
        } else if (strcmp(io->kind, "extint") == 0) {
            board->extint = (avr_extint_t *)io;
        }
    }
    complete_timer0(avr);

    uint32_t no_flags = 0; /* or reading UCSRA would put this process to sleep */
    avr_ioctl(avr, AVR_IOCTL_UART_SET_FLAGS('0'), &no_flags);
    board->uart_input = avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_INPUT);
    avr_irq_register_notify(avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_OUTPUT), transmitted, board);
    return true;
}

static unsigned clock_by_fuses(uint8_t lfuse)
{
    unsigned source = lfuse & 0x0F; /* CKSEL: 1 to 4 are the internal oscillator, the others the board's crystal */
    return source >= 1 && source <= 4 ? 1u << (source - 1) : 16;
}

static void boot(struct board *board, uint8_t cause)
{
    if (!board->powered || board->held_in_reset)
        return;
    avr_reset(board->avr);
    board->avr->data[MCUCSR_ADDRESS] = cause;
    board->megahertz = clock_by_fuses(board->lfuse);
    board->avr->frequency = board->megahertz * 1000000u;
    board->boot_cycle = board->avr->cycle;
    board->boot_time = board->wire->time;
    board->boots++;
}

bool board_runs(const struct board *board)
{
    return board->powered && !board->held_in_reset && board->avr->state != cpu_Crashed && board->avr->state != cpu_Done;
}

const char *board_mcu_state(const struct board *board)
{
    if (!board->powered)
        return "off";
    if (board->held_in_reset)
        return "reset";
    if (board->avr->state == cpu_Crashed)
        return "crashed";
    return board->avr->state == cpu_Done ? "stopped" : "running";
}

void board_power(struct board *board, bool on)
{
    if (board->powered == on)
        return;
    board->powered = on;
    board->programming_enabled = false;
    if (on) {
        /* RAM comes up with anything but what was in it. */
        for (unsigned address = board->avr->ioend + 1; address <= board->avr->ramend; address++)
            board->avr->data[address] = (uint8_t)random();
        boot(board, MCUCSR_PORF);
    }
}

void board_hold_in_reset(struct board *board, bool hold)
{
    bool released = board->held_in_reset && !hold;
    board->held_in_reset = hold;
    board->programming_enabled = false;
    if (released)
        boot(board, MCUCSR_EXTRF);
}

void board_reset(struct board *board)
{
    boot(board, MCUCSR_EXTRF);
}

void board_run_until(struct board *board, uint64_t time)
{
    if (!board_runs(board) || time <= board->boot_time)
        return;
    avr_t *avr = board->avr;
    avr_cycle_count_t end = board->boot_cycle + (time - board->boot_time) * board->megahertz / 1000;
    if (end <= avr->cycle)
        return;
    /* A sleeping core jumps to its next timer: this one is at the end of the slice. */
    avr_cycle_timer_register(avr, end - avr->cycle, end_of_slice, board);
    /* simavr forgets these two at every reset, and the firmware may reset itself. */
    avr->run_cycle_limit = 64;
    for (int i = 0; i < EXTINT_COUNT; i++)
        board->extint->eint[i].strict_lvl_trig = 0; /* else a low INTx pin is polled at every cycle: most of a CPU */
    while (avr->cycle < end) {
        int state = avr_run(avr);
        if (state == cpu_Done || state == cpu_Crashed) {
            fprintf(stderr, "board %s: MCU %s at 0x%04x\n", board->name, board_mcu_state(board), avr->pc);
            break;
        }
    }
}

void board_hear(struct board *board, uint8_t byte)
{
    if (!board_runs(board))
        return;
    correct_character_time(board);
    board->uart_received++;
    avr_raise_irq(board->uart_input, baudrate_fits(board) ? byte : (uint8_t)(byte * 37 + 11));
}

bool board_open(struct board *board, const char *firmware, char *error, size_t size)
{
    bool fresh_flash, fresh_eeprom;
    if (!map_memory(board, "flash.bin", FLASH_SIZE, 4096, &board->flash, &fresh_flash, error, size) ||
        !map_memory(board, "eeprom.bin", EEPROM_SIZE, 0, &board->eeprom, &fresh_eeprom, error, size) ||
        !open_fuses(board, error, size))
        return false;
    if (fresh_eeprom)
        board->eeprom[0] = (uint8_t)board->unit;
    if (fresh_flash && firmware && !intel_hex_load(firmware, board->flash, FLASH_SIZE, error, size)) {
        char path[4096];
        snprintf(path, sizeof path, "%s/flash.bin", board->directory);
        unlink(path); /* or the next start would take the empty flash for the board's own */
        return false;
    }
    if (!make_microcontroller(board, error, size))
        return false;
    board_power(board, true);
    return true;
}
