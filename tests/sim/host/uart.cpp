// A SoC whose only ports are clock, reset and a serial line, driven from a pipe:
//   'w' count data   -> (nothing)           send bytes; counts are 32 bits, lowest byte first
//   'r' count limit  -> count data          receive bytes until there are so many, or for limit cycles
// Time passes only while there is something to do.
#include <cstdint>
#include <cstdio>
#include <deque>

#include "Vtop.h"
#include "ports.h"

namespace {

constexpr int kCyclesPerBit = 4;

class Line {
public:
    Line() {
        top_.UART_serial_rx = 1;
        top_.UART_sys_rst = 1;
        for (int i = 0; i < 8; i++) clock();
        top_.UART_sys_rst = 0;
        for (int i = 0; i < 8; i++) clock();
        received.clear();
    }

    void clock() {
        top_.UART_sys_clk = 0;
        top_.eval();
        top_.UART_sys_clk = 1;
        top_.eval();
        receive(top_.UART_serial_tx);
    }

    void send(uint8_t byte) {
        unsigned frame = 0x200u | byte << 1;  // stop bit, data, start bit
        for (int bit = 0; bit < 10; bit++) {
            top_.UART_serial_rx = frame >> bit & 1;
            for (int i = 0; i < kCyclesPerBit; i++) clock();
        }
    }

    std::deque<uint8_t> received;

private:
    void receive(bool level) {
        if (phase_ < 0) {
            if (!level) phase_ = 0, byte_ = 0;
            return;
        }
        phase_++;
        int bit = phase_ / kCyclesPerBit;
        if (phase_ % kCyclesPerBit != kCyclesPerBit / 2 || bit == 0) return;
        if (bit <= 8) {
            byte_ |= level << (bit - 1);
        } else {
            received.push_back(byte_);
            phase_ = -1;
        }
    }

    Vtop top_;
    int phase_ = -1;
    unsigned byte_ = 0;
};

uint32_t number() {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) value |= static_cast<uint32_t>(std::getchar() & 255) << 8 * i;
    return value;
}

}  // namespace

int main() {
    Line line;
    for (int kind; (kind = std::getchar()) != EOF;) {
        uint32_t count = number();
        if (kind == 'w') {
            for (uint32_t i = 0; i < count; i++) line.send(static_cast<uint8_t>(std::getchar()));
            continue;
        }
        for (uint32_t limit = number(); line.received.size() < count && limit > 0; limit--) line.clock();
        uint32_t got = line.received.size() < count ? line.received.size() : count;
        for (int i = 0; i < 4; i++) std::putchar(got >> 8 * i & 255);
        for (uint32_t i = 0; i < got; i++) std::putchar(line.received[i]);
        line.received.erase(line.received.begin(), line.received.begin() + got);
        std::fflush(stdout);
    }
}
