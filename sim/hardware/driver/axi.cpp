// A tile behind AXI, Verilated, with a memory on its master port and a host on its register port. The host is the
// process at the other end of stdin and stdout: one command per line, one answer each, time passes only in commands.
//
//   axi bus_bytes=N memory_bytes=N memory_base=N
//
//   read OFFSET             -> VALUE RESPONSE     register access by AXI4-Lite, numbers are decimal
//   write OFFSET VALUE      -> RESPONSE
//   run CYCLES              -> ok
//   interrupt CYCLES        -> 0 or 1             waits until the line is high, CYCLES at most
//   reset                   -> ok                 aresetn low for 4 cycles; the memory forgets its bursts
//   peek ADDRESS SIZE       -> SIZE bytes         bus addresses inside of the memory
//   poke ADDRESS SIZE       -> ok                 SIZE bytes follow the line
//   memory LATENCY STALL SEED -> ok               how the memory behaves from now on
//   faults N A0 B0 A1 B1 .. -> ok                 beats in A <= address < B are answered with SLVERR
//   hang 0|1                -> ok                 while 1 the memory moves nothing
//   forget                  -> ok                 the memory is reset: it forgets its bursts
//   trace                   -> COUNT CYCLES, then COUNT records of cycle and bits (two 64-bit integers)
//                                                 since the last start; CYCLES 0 until the tile is done
//
// Cycle t is: inputs are set, logic settles, outputs are sampled, the clock rises. With STALL = 0 every READY is high,
// the first beat of a read comes LATENCY cycles after its address and then one per cycle, in order, and the response
// to a write LATENCY cycles after its last beat. With STALL > 0 every READY is low, and every beat or response is
// late, with probability STALL/1000. Beats outside of the memory are answered with DECERR. A wrong command ends the
// process with a message.

#include <algorithm>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "Vtilescore_axi.h"
#include "ports.h"  // AXI_<port>: member of Vtilescore_axi for every port used here
#include "verilated.h"

namespace {

const uint64_t ACCESS_LIMIT = 1000;  // cycles that a register access may take
const uint64_t LATEST = 24;          // cycles that a late beat is late at most

[[noreturn]] void fail(const std::string& message) {
    std::fprintf(stderr, "%s\n", message.c_str());
    std::exit(1);
}

class Random {  // xorshift64*
  public:
    explicit Random(uint64_t seed) : state_(seed * 2654435769u + 88172645463325252u) {}
    uint64_t next() {
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return (state_ * 2685821657736338717u) >> 33;
    }
    bool below(uint64_t per_mille) { return next() % 1000 < per_mille; }

  private:
    uint64_t state_;
};

const int OKAY = 0, SLVERR = 2, DECERR = 3;

struct Beat {
    uint64_t due, address;
    int response;
    bool last;
};

struct Burst {
    uint64_t address, beats;
};

struct Data {
    std::vector<uint8_t> bytes;
    uint64_t strobe;
    bool last;
};

struct Record {
    uint64_t cycle, bits;
};

class Bench {
  public:
    Bench(uint64_t bus, uint64_t bytes, uint64_t base) : bus_(bus), base_(base), memory_(bytes) { reset(); }

    void reset() {
        top_->AXI_aresetn = 0;
        forget();
        for (int i = 0; i < 4; ++i) {
            clock();
            ++t_;
        }
        top_->AXI_aresetn = 1;
    }

    void forget() {
        beats_.clear();
        writes_.clear();
        data_.clear();
        answers_.clear();
    }

    void cycle() {
        drive();
        clock();
        sample();
        ++t_;
    }

    void run(uint64_t cycles) {
        for (uint64_t i = 0; i < cycles; ++i) cycle();
    }

    bool interrupt(uint64_t cycles) {
        for (uint64_t i = 0; i < cycles && !top_->AXI_interrupt; ++i) cycle();
        return top_->AXI_interrupt;
    }

    std::string read(uint64_t offset) {
        top_->AXI_s_axi_araddr = offset;
        top_->AXI_s_axi_arvalid = 1;
        top_->AXI_s_axi_rready = 1;
        for (uint64_t i = 0; i < ACCESS_LIMIT; ++i) {
            cycle();
            if (taken_.ar) top_->AXI_s_axi_arvalid = 0;
            if (!taken_.r) continue;
            top_->AXI_s_axi_rready = 0;
            return std::to_string(taken_.value) + " " + std::to_string(taken_.response);
        }
        fail("no answer to a register read");
    }

    std::string write(uint64_t offset, uint64_t value) {
        top_->AXI_s_axi_awaddr = offset;
        top_->AXI_s_axi_wdata = value;
        top_->AXI_s_axi_wstrb = 15;
        top_->AXI_s_axi_awvalid = top_->AXI_s_axi_wvalid = top_->AXI_s_axi_bready = 1;
        for (uint64_t i = 0; i < ACCESS_LIMIT; ++i) {
            cycle();
            if (taken_.aw) top_->AXI_s_axi_awvalid = 0;
            if (taken_.w) top_->AXI_s_axi_wvalid = 0;
            if (!taken_.b) continue;
            top_->AXI_s_axi_bready = 0;
            return std::to_string(taken_.response);
        }
        fail("no answer to a register write");
    }

    uint8_t* place(uint64_t address, uint64_t size) {
        if (!inside(address, size)) fail("memory address " + std::to_string(address) + " is out of range");
        return memory_.data() + (address - base_);
    }

    void behave(uint64_t latency, uint64_t stall, uint64_t seed) {
        latency_ = latency;
        stall_ = stall;
        random_ = Random(seed);
    }

    std::vector<std::pair<uint64_t, uint64_t>> faults;
    bool hung = false;

    void trace() const {
        std::printf("%zu %" PRIu64 "\n", trace_.size(), cycles_);
        std::fwrite(trace_.data(), sizeof(Record), trace_.size(), stdout);
    }

  private:
    void clock() {
        top_->AXI_aclk = !top_->AXI_aclk;
        top_->eval();
    }

    bool go() { return !hung && (stall_ == 0 || !random_.below(stall_)); }
    uint64_t late() { return stall_ == 0 || !random_.below(stall_) ? 0 : 1 + random_.next() % LATEST; }

    bool inside(uint64_t address, uint64_t size) const {
        return address >= base_ && address - base_ <= memory_.size() && size <= memory_.size() - (address - base_);
    }

    int response(uint64_t address) const {
        if (!inside(address, bus_)) return DECERR;
        for (const auto& fault : faults)
            if (fault.first <= address && address < fault.second) return SLVERR;
        return OKAY;
    }

    void drive() {
        top_->AXI_m_axi_arready = go();
        top_->AXI_m_axi_awready = go();
        top_->AXI_m_axi_wready = go();
        top_->AXI_m_axi_rvalid = !hung && !beats_.empty() && beats_.front().due <= t_;
        if (top_->AXI_m_axi_rvalid) {
            const Beat& beat = beats_.front();
            if (beat.response != DECERR) std::memcpy(&top_->AXI_m_axi_rdata, place(beat.address, bus_), bus_);
            top_->AXI_m_axi_rresp = beat.response;
            top_->AXI_m_axi_rlast = beat.last;
        }
        top_->AXI_m_axi_bvalid = !hung && !answers_.empty() && answers_.front().due <= t_;
        if (top_->AXI_m_axi_bvalid) top_->AXI_m_axi_bresp = answers_.front().response;
    }

    void sample() {
        sample_reads();
        sample_writes();
        taken_.ar = top_->AXI_s_axi_arvalid && top_->AXI_s_axi_arready;
        taken_.aw = top_->AXI_s_axi_awvalid && top_->AXI_s_axi_awready;
        taken_.w = top_->AXI_s_axi_wvalid && top_->AXI_s_axi_wready;
        taken_.r = top_->AXI_s_axi_rvalid && top_->AXI_s_axi_rready;
        taken_.b = top_->AXI_s_axi_bvalid && top_->AXI_s_axi_bready;
        if (taken_.r) taken_.value = top_->AXI_s_axi_rdata;
        if (taken_.r || taken_.b) taken_.response = taken_.r ? top_->AXI_s_axi_rresp : top_->AXI_s_axi_bresp;
        if (top_->AXI_trace_start) {
            trace_.clear();
            started_ = t_;
            cycles_ = 0;
        }
        if (top_->AXI_trace_done && cycles_ == 0) cycles_ = t_ - started_ + 1;
        const uint64_t bits = (top_->AXI_trace_dispatch & 1u) | (top_->AXI_trace_issue & 15u) << 1 |
                              (top_->AXI_trace_rd & 15u) << 5 | (top_->AXI_trace_wr & 15u) << 9;
        if (bits) trace_.push_back({t_ - started_, bits});
    }

    void sample_reads() {
        if (top_->AXI_m_axi_rvalid && top_->AXI_m_axi_rready) beats_.pop_front();
        if (!(top_->AXI_m_axi_arvalid && top_->AXI_m_axi_arready)) return;
        const uint64_t address = top_->AXI_m_axi_araddr, count = top_->AXI_m_axi_arlen + 1u;
        for (uint64_t n = 0; n < count; ++n) {
            last_beat_ = std::max(t_ + latency_ + n, last_beat_ + 1) + late();
            beats_.push_back({last_beat_, address + n * bus_, response(address + n * bus_), n + 1 == count});
        }
    }

    void sample_writes() {
        if (top_->AXI_m_axi_bvalid && top_->AXI_m_axi_bready) answers_.pop_front();
        if (top_->AXI_m_axi_awvalid && top_->AXI_m_axi_awready)
            writes_.push_back({top_->AXI_m_axi_awaddr, top_->AXI_m_axi_awlen + 1u});
        if (top_->AXI_m_axi_wvalid && top_->AXI_m_axi_wready) {
            Data data{std::vector<uint8_t>(bus_), top_->AXI_m_axi_wstrb, top_->AXI_m_axi_wlast != 0};
            std::memcpy(data.bytes.data(), &top_->AXI_m_axi_wdata, bus_);
            data_.push_back(data);
        }
        while (!writes_.empty() && data_.size() >= writes_.front().beats) store();
    }

    void store() {
        const Burst burst = writes_.front();
        writes_.pop_front();
        int worst = OKAY;
        for (uint64_t n = 0; n < burst.beats; ++n) worst = std::max(worst, response(burst.address + n * bus_));
        for (uint64_t n = 0; n < burst.beats; ++n, data_.pop_front())
            for (uint64_t i = 0; i < bus_ && worst == OKAY; ++i)
                if (data_.front().strobe >> i & 1)
                    *place(burst.address + n * bus_ + i, 1) = data_.front().bytes[i];
        last_answer_ = std::max(t_ + latency_, last_answer_ + 1) + late();
        answers_.push_back({last_answer_, burst.address, worst, true});
    }

    struct {
        bool ar, aw, w, r, b;
        uint64_t value, response;
    } taken_{};

    std::unique_ptr<Vtilescore_axi> top_{new Vtilescore_axi};
    Random random_{0};
    uint64_t bus_, base_, latency_ = 1, stall_ = 0, t_ = 0, started_ = 0, cycles_ = 0, last_beat_ = 0, last_answer_ = 0;
    std::vector<uint8_t> memory_;
    std::deque<Beat> beats_, answers_;
    std::deque<Burst> writes_;
    std::deque<Data> data_;
    std::vector<Record> trace_;
};

uint64_t number(std::istream& words) {
    uint64_t value = 0;
    if (!(words >> value)) fail("a number is missing in a command");
    return value;
}

void obey(Bench& bench, const std::string& line) {
    std::istringstream words(line);
    std::string command, answer = "ok";
    words >> command;
    if (command == "read") {
        answer = bench.read(number(words));
    } else if (command == "write") {
        const uint64_t offset = number(words);
        answer = bench.write(offset, number(words));
    } else if (command == "run") {
        bench.run(number(words));
    } else if (command == "interrupt") {
        answer = bench.interrupt(number(words)) ? "1" : "0";
    } else if (command == "reset") {
        bench.reset();
    } else if (command == "peek") {
        const uint64_t address = number(words), size = number(words);
        std::fwrite(bench.place(address, size), 1, size, stdout);
        return;
    } else if (command == "poke") {
        const uint64_t address = number(words), size = number(words);
        std::cin.read(reinterpret_cast<char*>(bench.place(address, size)), size);
    } else if (command == "memory") {
        const uint64_t latency = number(words), stall = number(words);
        bench.behave(latency, stall, number(words));
    } else if (command == "faults") {
        bench.faults.clear();
        for (uint64_t left = number(words); left > 0; --left) {
            const uint64_t low = number(words);
            bench.faults.push_back({low, number(words)});
        }
    } else if (command == "hang") {
        bench.hung = number(words) != 0;
    } else if (command == "forget") {
        bench.forget();
    } else if (command == "trace") {
        bench.trace();
        return;
    } else {
        fail("unknown command: " + line);
    }
    std::printf("%s\n", answer.c_str());
}

}  // namespace

int main(int argc, char** argv) {
    std::map<std::string, uint64_t> options;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        const size_t equals = argument.find('=');
        if (equals == std::string::npos) fail("expected key=value, got " + argument);
        options[argument.substr(0, equals)] = std::strtoull(argument.c_str() + equals + 1, nullptr, 10);
    }
    Bench bench(options["bus_bytes"], options["memory_bytes"], options["memory_base"]);
    std::string line;
    while (std::getline(std::cin, line)) {
        obey(bench, line);
        std::fflush(stdout);
    }
    return 0;
}
