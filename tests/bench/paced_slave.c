// SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// A MODBUS RTU slave behind pseudo-terminals that takes as long as a real wire takes: a PTY carries bytes at once, so
// the time of every character is waited for here. It counts what a real slave could not tell: requests that came
// before the line had been silent for 3.5 characters, and requests sent into its own answer.
//
//   paced_slave [-b BAUD] [-n PORTS] [-g GAP_US] [-d TURNAROUND_US] [-u UNIT,UNIT...] LINK_PREFIX
//
// BAUD 0 answers without pacing. Prints "ready", then for every line on standard input one line of counters, which
// start anew with it. Ends with its standard input. Register A of unit U begins as A * 7 + U * 4099 (16 bit).

#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

typedef int64_t nanoseconds;

enum {
    UNITS = 248,
    REGISTERS = 0x420,
    LARGEST_FRAME = 256,
    LARGEST_BLOCK = 125,
    CHUNK = 8,             // characters handed over at once: as often as a UART with a FIFO interrupts
    PRECISION = 40 * 1000, // nanoseconds that a sleep may end late; the last stretch is spun
    UNPACED_FRAME_END = 20 // milliseconds of silence that end a broken frame when nothing is paced
};

struct counters {
    long requests, answers, exceptions, writes, bad_crc, bad_length, gap_violations, collisions;
    nanoseconds wire;
};

static struct counters counters;
static pthread_mutex_t counters_lock = PTHREAD_MUTEX_INITIALIZER;
static nanoseconds character, gap, turnaround;
static int answers_as[UNITS];
static const char *link_prefix;

static nanoseconds now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static struct timespec as_timespec(nanoseconds duration)
{
    return (struct timespec){duration / 1000000000LL, duration % 1000000000LL};
}

static void wait_until(nanoseconds moment)
{
    if (moment - now() > PRECISION) {
        struct timespec time = as_timespec(moment - PRECISION);
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, 0) == EINTR)
            ;
    }
    while (now() < moment)
        ;
}

static int input_until(int fd, nanoseconds moment)
{
    struct pollfd waiting = {fd, POLLIN, 0};
    nanoseconds left = moment - now() - PRECISION;
    if (left > 0) {
        struct timespec time = as_timespec(left);
        if (ppoll(&waiting, 1, &time, 0) > 0)
            return 1;
    }
    while (now() < moment)
        ;
    return poll(&waiting, 1, 0) > 0;
}

static uint16_t crc16(const uint8_t *data, int length)
{
    uint16_t crc = 0xFFFF;
    while (length--) {
        crc ^= *data++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? (crc >> 1) ^ 0xA001 : crc >> 1;
    }
    return crc;
}

static int word(const uint8_t *data) { return data[0] << 8 | data[1]; }

static int request_length(const uint8_t *frame, int received)
{
    return received > 6 && frame[1] == 16 ? 9 + frame[6] : 8;
}

static int readable(int address, int count)
{
    for (int last = address + count - 1; address <= last; address++)
        if (!(address <= 0x1F || (address >= 0x100 && address <= 0x17F)))
            return 0;
    return 1;
}

static int refuse(uint8_t *answer, int code)
{
    answer[1] |= 0x80;
    answer[2] = code;
    return 3;
}

// The answer without its CRC; returns its length.
static int answer_to(const uint8_t *request, uint8_t *answer, uint16_t registers[UNITS][REGISTERS])
{
    uint16_t *own = registers[request[0]];
    int function = request[1], address = word(request + 2), count = function == 6 ? 1 : word(request + 4);
    memcpy(answer, request, 6);
    if (function != 3 && function != 4 && function != 6 && function != 16)
        return refuse(answer, 1);
    if (count < 1 || count > LARGEST_BLOCK || (function == 16 && request[6] != 2 * count))
        return refuse(answer, 3);
    if (!readable(address, count))
        return refuse(answer, 2);
    if (function == 6)
        own[address] = word(request + 4);
    if (function == 16)
        for (int i = 0; i < count; i++)
            own[address + i] = word(request + 7 + 2 * i);
    if (function == 6 || function == 16)
        return 6;
    answer[2] = 2 * count;
    for (int i = 0; i < count; i++) {
        answer[3 + 2 * i] = own[address + i] >> 8;
        answer[4 + 2 * i] = own[address + i];
    }
    return 3 + 2 * count;
}

// Sends at the pace of the wire; returns the moment of the last character's end. A request that comes meanwhile
// garbles the rest, as it does on a two-wire line.
static nanoseconds transmit(int fd, uint8_t *frame, int length, nanoseconds start)
{
    nanoseconds end = now();
    for (int sent = 0; sent < length;) {
        int chunk = character && length - sent > CHUNK ? CHUNK : length - sent;
        if (character)
            wait_until(start + (sent + chunk) * character);
        struct pollfd waiting = {fd, POLLIN, 0};
        if (character && poll(&waiting, 1, 0) > 0) {
            uint8_t lost[LARGEST_FRAME];
            if (read(fd, lost, sizeof lost) > 0)
                for (int i = sent; i < length; i++)
                    frame[i] ^= 0x5A;
            pthread_mutex_lock(&counters_lock);
            counters.collisions++;
            pthread_mutex_unlock(&counters_lock);
        }
        end = now();
        if (write(fd, frame + sent, chunk) != chunk)
            perror("write");
        sent += chunk;
    }
    return end;
}

static void *serve(void *argument)
{
    long index = (long)argument;
    uint16_t(*registers)[REGISTERS] = calloc(UNITS, sizeof *registers);
    uint8_t frame[LARGEST_FRAME], answer[LARGEST_FRAME];
    char name[64], link[512];
    struct termios raw;
    int master, keeper; // the slave side stays open here, so that a client may come and go

    for (int unit = 0; unit < UNITS; unit++)
        for (int address = 0; address < REGISTERS; address++)
            registers[unit][address] = address * 7 + unit * 4099;
    if (openpty(&master, &keeper, name, 0, 0) || tcgetattr(keeper, &raw)) {
        perror("openpty");
        exit(1);
    }
    cfmakeraw(&raw);
    tcsetattr(keeper, TCSANOW, &raw);
    snprintf(link, sizeof link, "%s%ld", link_prefix, index);
    unlink(link);
    if (symlink(name, link)) {
        perror(link);
        exit(1);
    }
    // Hardware is not delayed by what else the machine does; where we may not claim that, so be it.
    struct sched_param priority = {.sched_priority = 1};
    pthread_setschedparam(pthread_self(), SCHED_FIFO, &priority);
    prctl(PR_SET_TIMERSLACK, 1);
    printf("ready\n");
    fflush(stdout);

    nanoseconds heard = 0, spoken = 0; // wire times of the last character in and out
    for (int received = 0;;) {
        struct pollfd waiting = {master, POLLIN, 0};
        int more;
        if (received == 0)
            more = poll(&waiting, 1, -1) > 0;
        else if (character)
            more = input_until(master, heard + gap);
        else
            more = received < request_length(frame, received) && poll(&waiting, 1, UNPACED_FRAME_END) > 0;
        if (more) {
            int length = read(master, frame + received, sizeof frame - received);
            nanoseconds arrival = now();
            if (length <= 0)
                continue;
            if (received == 0 && spoken && arrival < spoken + gap) {
                pthread_mutex_lock(&counters_lock);
                counters.gap_violations++;
                pthread_mutex_unlock(&counters_lock);
            }
            heard = (received && heard > arrival ? heard : arrival) + length * character;
            received += length;
            if (received < (int)sizeof frame)
                continue;
        }
        int length = received;
        received = 0;
        pthread_mutex_lock(&counters_lock);
        counters.requests++;
        if (length != request_length(frame, length))
            counters.bad_length++;
        else if (crc16(frame, length) != 0)
            counters.bad_crc++;
        else
            length = -length;
        pthread_mutex_unlock(&counters_lock);
        if (length >= 0 || frame[0] >= UNITS || !answers_as[frame[0]])
            continue;
        length = -length;

        int size = answer_to(frame, answer, registers);
        uint16_t crc = crc16(answer, size);
        answer[size++] = crc;
        answer[size++] = crc >> 8;
        // Counted before the answer leaves: whoever has read it may ask for the counters at once.
        pthread_mutex_lock(&counters_lock);
        counters.answers++;
        counters.exceptions += answer[1] >> 7;
        counters.writes += answer[1] == 6 || answer[1] == 16;
        counters.wire += (length + size) * character + 2 * gap + turnaround;
        pthread_mutex_unlock(&counters_lock);
        if (turnaround && !character)
            wait_until(now() + turnaround);
        spoken = transmit(master, answer, size, heard + gap + turnaround);
    }
    return 0;
}

int main(int argc, char **argv)
{
    long baudrate = 115200, ports = 1, gap_us = -1;
    const char *units = 0;
    for (int option; (option = getopt(argc, argv, "b:n:g:d:u:")) != -1;)
        switch (option) {
        case 'b': baudrate = atol(optarg); break;
        case 'n': ports = atol(optarg); break;
        case 'g': gap_us = atol(optarg); break;
        case 'd': turnaround = atol(optarg) * 1000LL; break;
        case 'u': units = optarg; break;
        default: return 2;
        }
    if (optind != argc - 1)
        return 2;
    link_prefix = argv[optind];
    if (baudrate) {
        character = 10 * 1000000000LL / baudrate;
        gap = gap_us >= 0 ? gap_us * 1000 : character * 7 / 2;
    }
    for (int unit = 1; unit < UNITS && !units; unit++)
        answers_as[unit] = 1;
    for (const char *next = units; next; next = strchr(next, ',') ? strchr(next, ',') + 1 : 0)
        answers_as[atoi(next) % UNITS] = 1;
    for (long index = 0; index < ports; index++) {
        pthread_t thread;
        if (pthread_create(&thread, 0, serve, (void *)index))
            return 1;
    }
    for (char line[64]; fgets(line, sizeof line, stdin);) {
        pthread_mutex_lock(&counters_lock);
        struct counters seen = counters;
        memset(&counters, 0, sizeof counters);
        pthread_mutex_unlock(&counters_lock);
        printf("requests=%ld answers=%ld exceptions=%ld writes=%ld bad_crc=%ld bad_length=%ld gap_violations=%ld "
               "collisions=%ld wire_us=%lld\n",
               seen.requests, seen.answers, seen.exceptions, seen.writes, seen.bad_crc, seen.bad_length,
               seen.gap_violations, seen.collisions, (long long)seen.wire / 1000);
        fflush(stdout);
    }
    for (long index = 0; index < ports; index++) {
        char link[512];
        snprintf(link, sizeof link, "%s%ld", link_prefix, index);
        unlink(link);
    }
    return 0;
}
