// What a host of an exported detector does whatever runs the network: read FILE.json, fit the picture, decode, suppress, draw.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include <opencv2/core.hpp>
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

namespace yolo {

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// `FILE.json`, as far as these examples need it.
struct Description {
    std::string input;  // name
    cv::Size size;
    bool rgb = true;
    double mean = 0, divisor = 1;
    int border = 0;
    std::string kind;                  // of what comes out: boxes, raw, suppressed, maps
    std::vector<std::string> outputs;  // names
    std::vector<std::string> axes;     // of raw outputs
    std::vector<std::vector<cv::Size2f>> anchors;
    std::vector<int> strides;
    std::vector<std::string> classes;
    float score = 0, iou = 0;
    size_t boxes = 0;
    bool agnostic = false;
};

/// Corners in pixels: of the network's input at first, of the picture in the end.
struct Detection {
    int id;
    float score;
    float x1, y1, x2, y2;
};

/// cv::FileStorage has no `null`, which stands for an open size: it becomes 0.
inline std::string without_nulls(std::string text)
{
    bool quoted = false;
    for (size_t i = 0; i < text.size(); ++i) {
        if (quoted && text[i] == '\\')
            ++i;
        else if (text[i] == '"')
            quoted = !quoted;
        else if (!quoted && text.compare(i, 4, "null") == 0)
            text.replace(i, 4, "0");
    }
    return text;
}

inline cv::FileNode entry(const cv::FileNode& of, const std::string& key)
{
    const cv::FileNode found = of.isMap() ? of[key] : cv::FileNode();
    if (found.isNone())
        throw Error("it has no `" + key + "`");
    return found;
}

inline double number(const cv::FileNode& of, const std::string& key)
{
    const cv::FileNode found = entry(of, key);
    if (!found.isInt() && !found.isReal())
        throw Error("its `" + key + "` is no number");
    return found.real();
}

inline std::vector<std::string> texts(const cv::FileNode& list)
{
    std::vector<std::string> found;
    for (const auto& item : list)
        found.push_back(item.string());
    return found;
}

inline Description parsed(const cv::FileNode& root)
{
    const auto input = entry(root, "input"), letterbox = entry(root, "letterbox"), output = entry(root, "output");
    const auto thresholds = entry(root, "thresholds");
    const auto only = [](const cv::FileNode& of, const std::string& key, const std::string& value) {
        if (entry(of, key).string() != value)
            throw Error("its `" + key + "` is `" + of[key].string() + "`; these examples know `" + value + "`");
    };
    if (const double version = number(root, "version"); version != 1)
        throw Error(cv::format("its version is %g; these examples know 1", version));
    only(root, "task", "detect");
    only(letterbox, "scaling", "bilinear");

    Description d;
    std::vector<int> shape;
    entry(input, "shape") >> shape;
    if (shape.size() != 4 || shape[1] != 3)
        throw Error("its input is no picture of three channels");
    if (shape[2] <= 0 || shape[3] <= 0)
        throw Error("its size is open; export it with one size");
    if (shape[0] > 1)
        throw Error("it runs " + std::to_string(shape[0]) + " pictures at once; export it with --batch-size 1");
    d.input = entry(input, "name").string();
    d.size = {shape[3], shape[2]};
    d.rgb = entry(input, "channels").string() != "bgr";
    if (d.rgb)
        only(input, "channels", "rgb");
    d.mean = number(input, "mean");
    d.divisor = number(input, "divisor");
    d.border = int(number(letterbox, "border"));

    d.kind = entry(output, "kind").string();
    d.outputs = d.kind == "boxes" ? std::vector{entry(output, "name").string()} : texts(entry(output, "names"));
    if (d.kind == "raw") {
        d.axes = texts(entry(output, "axes"));
        entry(output, "strides") >> d.strides;
        for (const auto& level : entry(output, "anchors")) {
            d.anchors.emplace_back();
            for (const auto& anchor : level)
                d.anchors.back().emplace_back(float(anchor[0]), float(anchor[1]));
        }
        if (d.anchors.size() != d.outputs.size() || d.strides.size() != d.outputs.size())
            throw Error("its `names`, `anchors` and `strides` are not of one length");
    }

    d.classes = texts(entry(root, "classes"));
    if (d.classes.empty())
        throw Error("it names no classes");
    d.score = float(number(thresholds, "score"));
    d.iou = float(number(thresholds, "iou"));
    d.boxes = size_t(number(thresholds, "boxes"));
    // Left out where it is false.
    d.agnostic = !thresholds["agnostic"].isNone() && int(thresholds["agnostic"]) != 0;
    return d;
}

/// Reads what stands beside `file`, or beside the ONNX file that an engine was built from.
inline Description describe(const std::string& file, const std::string& kind)
{
    std::string path = file + ".json";
    if (kind == "boxes" && !std::filesystem::exists(path))
        path = std::filesystem::path(file).replace_extension(".onnx.json").string();
    std::ifstream stream(path);
    if (!stream)
        throw Error(path + " is not there: `yolo export` writes it beside the file");
    const std::string text{std::istreambuf_iterator<char>(stream), {}};
    try {
        const cv::FileStorage json(without_nulls(text), cv::FileStorage::READ | cv::FileStorage::MEMORY | cv::FileStorage::FORMAT_JSON);
        Description d = parsed(json.root());
        if (d.kind != kind)
            throw Error("its output is `" + d.kind + "`; this example decodes `" + kind + "`");
        return d;
    } catch (const cv::Exception&) {
        // What OpenCV says holds the whole text.
        throw Error(path + ": it is no JSON of `yolo export`");
    } catch (const Error& error) {
        throw Error(path + ": " + error.what());
    }
}

/// A picture as the network wants it, and the way back.
struct Fitted {
    std::vector<float> values;  // channel, row, column
    double gain, left, top;
    cv::Size picture;
};

inline Fitted fit(const cv::Mat& picture, const Description& d)
{
    const double gain = std::min(double(d.size.height) / picture.rows, double(d.size.width) / picture.cols);
    const int width = std::clamp(cvRound(picture.cols * gain), 1, d.size.width);
    const int height = std::clamp(cvRound(picture.rows * gain), 1, d.size.height);
    const double left = (d.size.width - width) / 2.0, top = (d.size.height - height) / 2.0;

    // Of an odd border the smaller half is left and above; the way back takes the exact half. YOLOv5 does both.
    cv::Mat canvas(d.size, CV_8UC3, cv::Scalar::all(d.border));
    cv::Mat inner = canvas(cv::Rect(cvRound(left - 0.1), cvRound(top - 0.1), width, height));
    cv::resize(picture, inner, inner.size(), 0, 0, cv::INTER_LINEAR);

    const size_t plane = size_t(d.size.area());
    Fitted fitted{std::vector<float>(3 * plane), gain, left, top, picture.size()};
    for (int c = 0; c < 3; ++c) {
        cv::Mat channel, values(d.size, CV_32F, fitted.values.data() + size_t(c) * plane);
        cv::extractChannel(canvas, channel, d.rgb ? 2 - c : c);
        channel.convertTo(values, CV_32F, 1 / d.divisor, -d.mean / d.divisor);
    }
    return fitted;
}

inline Detection centred(size_t id, float score, float x, float y, float w, float h)
{
    return {int(id), score, x - w / 2, y - h / 2, x + w / 2, y + h / 2};
}

/// Rows of centre x, centre y, width, height, objectness and one probability per class.
inline std::vector<Detection> decode_boxes(const float* row, size_t rows, const Description& d)
{
    std::vector<Detection> found;
    const size_t columns = 5 + d.classes.size();
    for (const float* end = row + rows * columns; row != end; row += columns) {
        if (!(row[4] > d.score))
            continue;
        const float* best = std::max_element(row + 5, row + columns);
        if (const float score = row[4] * *best; score > d.score)
            found.push_back(centred(size_t(best - row) - 5, score, row[0], row[1], row[2], row[3]));
    }
    return found;
}

/// The cells of one anchor, row by row, with the values of `decode_boxes` before the sigmoid.
inline void decode_raw(const float* cell, size_t level, size_t anchor, const Description& d, std::vector<Detection>& found)
{
    const auto sigmoid = [](float value) { return 1 / (1 + std::exp(-value)); };
    const size_t columns = 5 + d.classes.size();
    const cv::Size2f size = d.anchors[level][anchor];
    const int stride = d.strides[level];
    for (int y = 0; y < d.size.height / stride; ++y) {
        for (int x = 0; x < d.size.width / stride; ++x, cell += columns) {
            const float objectness = sigmoid(cell[4]);
            if (!(objectness > d.score))
                continue;
            const float* best = std::max_element(cell + 5, cell + columns);
            const float score = objectness * sigmoid(*best);
            if (!(score > d.score))
                continue;
            const float w = 2 * sigmoid(cell[2]), h = 2 * sigmoid(cell[3]);
            found.push_back(centred(size_t(best - cell) - 5, score, (2 * sigmoid(cell[0]) - 0.5f + float(x)) * float(stride),
                                    (2 * sigmoid(cell[1]) - 0.5f + float(y)) * float(stride), w * w * size.width,
                                    h * h * size.height));
        }
    }
}

/// Non-maximum suppression, best first. Classes are moved apart by an offset, not compared, so that boxes at the edge of the
/// threshold are rounded as YOLOv5 rounds them.
inline std::vector<Detection> suppress(std::vector<Detection> all, const Description& d)
{
    constexpr float apart = 4096;
    constexpr size_t most = 30000;
    std::stable_sort(all.begin(), all.end(), [](const Detection& a, const Detection& b) { return a.score > b.score; });
    if (all.size() > most)
        all.resize(most);
    std::vector<Detection> kept;
    std::vector<cv::Vec4f> moved;
    for (const Detection& one : all) {
        if (kept.size() == d.boxes)
            break;
        const float by = d.agnostic ? 0 : float(one.id) * apart;
        const cv::Vec4f a(one.x1 + by, one.y1 + by, one.x2 + by, one.y2 + by);
        const bool covered = std::any_of(moved.begin(), moved.end(), [&](const cv::Vec4f& b) {
            const float w = std::max(0.f, std::min(a[2], b[2]) - std::max(a[0], b[0]));
            const float h = std::max(0.f, std::min(a[3], b[3]) - std::max(a[1], b[1]));
            const float both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h;
            return w * h / both > d.iou;
        });
        if (!covered) {
            kept.push_back(one);
            moved.push_back(a);
        }
    }
    return kept;
}

/// From pixels of the input to pixels of the picture.
inline void put_back(std::vector<Detection>& found, const Fitted& fitted)
{
    const auto back = [&](float& value, double border, int limit) {
        value = float(std::clamp((value - border) / fitted.gain, 0.0, double(limit)));
    };
    for (Detection& one : found) {
        back(one.x1, fitted.left, fitted.picture.width);
        back(one.x2, fitted.left, fitted.picture.width);
        back(one.y1, fitted.top, fitted.picture.height);
        back(one.y2, fitted.top, fitted.picture.height);
    }
}

inline void draw(cv::Mat& picture, const std::vector<Detection>& found, const Description& d)
{
    const int line = std::max(1, (picture.rows + picture.cols) / 600);
    for (auto one = found.rbegin(); one != found.rend(); ++one) {  // the best on top
        const cv::Mat hue(1, 1, CV_8UC3, cv::Scalar(one->id * 67 % 180, 200, 220));
        cv::Mat bgr;
        cv::cvtColor(hue, bgr, cv::COLOR_HSV2BGR);
        const cv::Scalar colour = bgr.at<cv::Vec3b>(0, 0);
        const cv::Point corner(cvRound(one->x1), cvRound(one->y1));
        cv::rectangle(picture, corner, cv::Point(cvRound(one->x2), cvRound(one->y2)), colour, line);
        const std::string label = d.classes[size_t(one->id)] + cv::format(" %.2f", double(one->score));
        cv::putText(picture, label, {corner.x, std::max(corner.y - 2 * line, 9 * line)}, cv::FONT_HERSHEY_SIMPLEX, 0.3 * line, colour,
                    line, cv::LINE_AA);
    }
}

/// The whole program: `Network` is made of the file and its description, and turns values of the input into detections in pixels of it.
template <class Network>
int run(int argc, char** argv, const std::string& kind)
try {
    if (argc < 3 || argc > 4) {
        std::fprintf(stderr, "usage: %s FILE PICTURE [OUT.jpg]\n", argv[0]);
        return 1;
    }
    cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);  // errors are said below, once
    const std::string file = argv[1];
    const Description description = describe(file, kind);
    cv::Mat picture = cv::imread(argv[2]);
    if (picture.empty())
        throw Error(std::string(argv[2]) + " is no picture that can be read");
    if (!std::filesystem::exists(file))
        throw Error(file + " is not there");

    Network network(file, description);
    Fitted fitted = fit(picture, description);
    std::vector<Detection> found = suppress(network(fitted.values), description);
    put_back(found, fitted);
    for (const Detection& one : found)
        std::printf("%s %.4f %.2f %.2f %.2f %.2f\n", description.classes[size_t(one.id)].c_str(), double(one.score), double(one.x1),
                    double(one.y1), double(one.x2), double(one.y2));
    if (argc == 4) {
        draw(picture, found, description);
        bool written = false;
        try {
            written = cv::imwrite(argv[3], picture);
        } catch (const cv::Exception&) {  // an ending that OpenCV does not know
        }
        if (!written)
            throw Error(std::string(argv[3]) + " can't be written");
    }
    return 0;
} catch (const std::exception& error) {
    std::string line = error.what();
    std::replace(line.begin(), line.end(), '\n', ' ');
    std::fprintf(stderr, "error: %s\n", line.c_str());
    return 1;
}

}  // namespace yolo
