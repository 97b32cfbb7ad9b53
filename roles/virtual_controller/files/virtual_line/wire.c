/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later */
#include "wire.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_REGISTERS = 125 }; /* of one answer */

/* ---- queues, sorted by time */

static void insert(struct wire_queue *queue, struct wire_byte entry)
{
    if (queue->count == WIRE_QUEUE) /* nobody has taken anything for seconds: the oldest is lost */
        queue->first++, queue->count--;
    unsigned place = queue->first + queue->count++;
    while (place != queue->first && queue->bytes[(place - 1) % WIRE_QUEUE].time > entry.time) {
        queue->bytes[place % WIRE_QUEUE] = queue->bytes[(place - 1) % WIRE_QUEUE];
        place--;
    }
    queue->bytes[place % WIRE_QUEUE] = entry;
}

static struct wire_byte *at(const struct wire_queue *queue, unsigned index)
{
    return (struct wire_byte *)&queue->bytes[(queue->first + index) % WIRE_QUEUE];
}

const struct wire_byte *wire_heard_before(const struct wire *wire, unsigned index, uint64_t time)
{
    if (index >= wire->to_boards.count)
        return NULL;
    const struct wire_byte *byte = at(&wire->to_boards, index);
    return byte->time < time ? byte : NULL;
}

void wire_forget_before(struct wire *wire, uint64_t time)
{
    while (wire_heard_before(wire, 0, time))
        wire->to_boards.first++, wire->to_boards.count--;
}

bool wire_busy(const struct wire *wire)
{
    return wire->to_boards.count || wire->to_master.count || wire->time - wire->last_activity < 20000000u;
}

/* ---- bytes */

static uint8_t with_noise(struct wire *wire, uint8_t byte, unsigned one_in)
{
    if (!one_in || random() % one_in)
        return byte;
    wire->noise_hits++;
    return byte ^ (uint8_t)(1u << (random() & 7));
}

void wire_transmit(struct wire *wire, int source, uint8_t byte, uint64_t start)
{
    /* Two transmitters at once drive the same pair of wires: nobody gets what either of them meant. */
    if (start < wire->talker_until && wire->talker != source) {
        wire->collisions++;
        byte ^= 0x55;
    }
    wire->talker = source;
    wire->talker_until = start + wire->character_time;
    wire->last_activity = wire->time;
    uint64_t heard = start + HEARING_DELAY;
    if (heard < wire->slice_end) /* boards that had their turn in this slice have to hear it as well */
        heard = wire->slice_end;
    insert(&wire->to_boards, (struct wire_byte){heard, (int16_t)source, byte});
    if (source != MASTER)
        insert(&wire->to_master, (struct wire_byte){start + wire->character_time, (int16_t)source, byte});
}

void wire_write_master(struct wire *wire)
{
    uint8_t bytes[256];
    unsigned count = 0;
    while (count < wire->to_master.count && count < sizeof bytes && at(&wire->to_master, count)->time <= wire->time) {
        bytes[count] = at(&wire->to_master, count)->byte;
        count++;
    }
    if (!count)
        return;
    for (unsigned i = 0; i < count; i++)
        bytes[i] = with_noise(wire, bytes[i], wire->noise_to_master);
    unsigned sent = (unsigned)port_write(&wire->port, bytes, count);
    wire->to_master.first += sent;
    wire->to_master.count -= sent;
    wire->bytes_to_master += sent;
    if (sent)
        wire->last_delivery = wire->time;
}

/* ---- what the master sends */

static uint16_t modbus_crc(const uint8_t *bytes, unsigned count)
{
    uint16_t crc = 0xFFFF;
    while (count--) {
        crc ^= *bytes++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? (uint16_t)(crc >> 1 ^ 0xA001) : crc >> 1;
    }
    return crc;
}

static bool crc_fits(const struct wire *wire)
{
    /* The CRC over a frame and its own CRC is zero. */
    return wire->frame_length >= 4 && modbus_crc(wire->frame, wire->frame_length) == 0;
}

static bool is_write(uint8_t function)
{
    return function == 5 || function == 6 || function == 15 || function == 16 || function == 22 || function == 23;
}

/* Length of the request that begins like this, 0 where more bytes or the gap after it must tell. */
static unsigned request_length(const uint8_t *frame, unsigned length)
{
    if (length < 2)
        return 0;
    switch (frame[1]) {
    case 1: case 2: case 3: case 4: case 5: case 6:
        return 8;
    case 15: case 16:
        return length > 6 ? 9u + frame[6] : 0;
    case 22:
        return 10;
    case 23:
        return length > 10 ? 13u + frame[10] : 0;
    default:
        return 0;
    }
}

/* How many registers a request of function 23 reads. */
static unsigned registers_read(const uint8_t *request)
{
    return (unsigned)request[4] << 8 | request[5];
}

/* A request that MODBUS does not allow is the board's to refuse. */
static bool may_be_acknowledged(const uint8_t *request)
{
    return is_write(request[1]) && (request[1] != 23 || registers_read(request) <= MOST_REGISTERS);
}

static void acknowledge(struct wire *wire)
{
    const uint8_t *request = wire->frame;
    uint8_t answer[3 + 2 * MOST_REGISTERS + 2];
    unsigned length = 6;
    if (request[1] == 22)
        length = 8;
    memcpy(answer, request, length);
    if (request[1] == 23) { /* reads as well: zeros */
        length = 3 + registers_read(request) * 2;
        memset(answer + 2, 0, length - 2);
        answer[2] = (uint8_t)(registers_read(request) * 2);
    }
    uint16_t crc = modbus_crc(answer, length);
    answer[length++] = (uint8_t)crc;
    answer[length++] = (uint8_t)(crc >> 8);
    uint64_t start = wire->frame_end + MODBUS_GAP + 250000;
    /* As if the board had sent it: it must not hear it, an acknowledgement may look just like the request. */
    int board = wire->discard_for[request[0]];
    for (unsigned i = 0; i < length; i++)
        wire_transmit(wire, board, answer[i], start + i * wire->character_time);
}

static void hand_frame_to_boards(struct wire *wire)
{
    uint64_t start = wire->time > wire->talker_until ? wire->time : wire->talker_until;
    for (unsigned i = 0; i < wire->frame_length; i++)
        wire_transmit(wire, MASTER, wire->frame[i], start + i * wire->character_time);
}

static void close_frame(struct wire *wire)
{
    uint8_t unit = wire->frame[0], function = wire->frame[1];
    bool valid = crc_fits(wire);
    if (valid) {
        struct unit_traffic *traffic = &wire->units[unit];
        traffic->requests++;
        traffic->write_requests += is_write(function);
        if (traffic->first_request == 0)
            traffic->first_request = wire->frame_end;
        else if (wire->frame_end - traffic->last_request > traffic->longest_gap)
            traffic->longest_gap = wire->frame_end - traffic->last_request;
        traffic->last_request = wire->frame_end;
    } else {
        wire->bad_frames++;
    }
    if (wire->discards_active) {
        if (valid && wire->discard[unit] && may_be_acknowledged(wire->frame)) {
            wire->discarded++;
            acknowledge(wire);
        } else {
            hand_frame_to_boards(wire);
        }
    }
    wire->frame_length = 0;
}

void wire_close_frame_after_gap(struct wire *wire)
{
    if (wire->frame_length && wire->time > wire->frame_end + MODBUS_GAP)
        close_frame(wire);
}

static void observe(struct wire *wire, uint8_t byte, uint64_t start)
{
    if (wire->frame_length == 0 && wire->last_delivery && wire->time < wire->last_delivery + MODBUS_GAP - 50000)
        wire->gap_violations++;
    wire->frame[wire->frame_length++] = byte;
    wire->frame_end = start + wire->character_time;
    if (wire->frame_length == request_length(wire->frame, wire->frame_length) || wire->frame_length == sizeof wire->frame)
        close_frame(wire);
}

void wire_read_master(struct wire *wire)
{
    uint8_t bytes[1024];
    size_t count = port_read(&wire->port, bytes, sizeof bytes);
    wire_close_frame_after_gap(wire);
    for (size_t i = 0; i < count; i++) {
        uint64_t start = wire->master_free > wire->time ? wire->master_free : wire->time;
        wire->master_free = start + wire->character_time;
        wire->bytes_from_master++;
        uint8_t byte = with_noise(wire, bytes[i], wire->noise_to_boards);
        bool at_once = !wire->discards_active; /* else the frame is held until it is known what it is */
        if (at_once)
            wire_transmit(wire, MASTER, byte, start);
        wire->last_activity = wire->time;
        observe(wire, byte, start);
    }
}

void wire_set_discard(struct wire *wire, unsigned unit, int board, bool discard)
{
    wire->discard_for[unit] = board;
    wire->discards_active += (unsigned)discard - (unsigned)wire->discard[unit];
    wire->discard[unit] = discard;
}

void wire_reset_counters(struct wire *wire)
{
    memset(wire->units, 0, sizeof wire->units);
    wire->bytes_from_master = wire->bytes_to_master = wire->bad_frames = wire->gap_violations = 0;
    wire->collisions = wire->discarded = wire->noise_hits = 0;
}
