// Drives xAI's batches with the AI SDK: node ai_sdk_batch.mjs BASE_URL start TEXT... | status ID | results ID | list | cancel ID
import { createXai } from '@ai-sdk/xai';

const [baseURL, command, ...rest] = process.argv.slice(2);
const batch = createXai({ baseURL, apiKey: 'k' }).experimental_batch();
const options = { batchId: rest[0] };

const commands = {
  start: () =>
    batch.doStartBatch({
      requests: rest.map((text, number) => ({
        type: 'text',
        id: `r${number}`,
        modelId: 'grok-4.3',
        options: { prompt: [{ role: 'user', content: [{ type: 'text', text }] }] },
      })),
      providerOptions: { xai: { inputFileExpiresAfter: 86400 } },
    }),
  status: () => batch.doGetBatchStatus(options),
  list: () => batch.doListBatches({ limit: 10 }),
  cancel: () => batch.doCancelBatch(options),
  results: async () => {
    const results = [];
    for await (const each of await batch.doGetBatchResults(options)) results.push(each);
    return results;
  },
};

console.log(JSON.stringify(await commands[command]()));
