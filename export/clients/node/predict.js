// Asks TF Serving for the labels of texts.
//
//     npm install
//     node predict.js HOST:PORT MODEL TEXT...
"use strict";

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const TIMEOUT_MS = 5000;
const PROTO = path.join(__dirname, "..", "predict.proto");

function readAnswers({ outputs: { label, probabilities } }) {
  const width = Number(probabilities.tensor_shape.dim[1].size);
  return label.string_val.map((bytes, row) => ({
    label: bytes.toString(), // empty if the server could not compute this row
    probabilities: probabilities.float_val.slice(row * width, (row + 1) * width),
  }));
}

function predict(client, model, texts) {
  const request = {
    model_spec: { name: model, signature_name: "classify_text" },
    inputs: {
      text: {
        dtype: "DT_STRING",
        tensor_shape: { dim: [{ size: texts.length }] },
        string_val: texts.map((text) => Buffer.from(text)),
      },
    },
  };
  const options = { deadline: Date.now() + TIMEOUT_MS };
  return new Promise((resolve, reject) => {
    client.Predict(request, options, (error, response) =>
      error ? reject(error) : resolve(readAnswers(response)),
    );
  });
}

async function main([target, model, ...texts]) {
  if (texts.length === 0) {
    // A request without rows would delay the batches of others.
    throw new Error("usage: node predict.js HOST:PORT MODEL TEXT...");
  }
  const definition = protoLoader.loadSync(PROTO, { keepCase: true });
  const { PredictionService } = grpc.loadPackageDefinition(definition).tensorflow.serving;
  const client = new PredictionService(target, grpc.credentials.createInsecure());
  try {
    for (const answer of await predict(client, model, texts)) {
      console.log(JSON.stringify(answer));
    }
  } finally {
    client.close();
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
